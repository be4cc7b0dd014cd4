"""Eight faults at random times in extract and analyze; benchmarks/chaos.py injects more."""

from __future__ import annotations

import subprocess
from functools import partial

import pytest

from benchmarks import chaos
from tests.forked_workers import start


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_lose_nothing_and_double_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(chaos, "start_command", partial(start, start_new_session=True, stderr=subprocess.DEVNULL))
    outcomes = chaos.inject_into_both(tmp_path, kills=8, seed=0)
    for outcome in outcomes.values():
        assert outcome.faults.total() == 4
        assert outcome.completions >= 1
        assert outcome.differing == []
