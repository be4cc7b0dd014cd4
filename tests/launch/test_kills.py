"""Eight blows at random moments over extract and analyze; benchmarks/chaos.py does the same with more."""

from __future__ import annotations

import pytest

from benchmarks.chaos import siege_of_both


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_lose_nothing_and_double_nothing(tmp_path):
    outcomes = siege_of_both(tmp_path, kills=8, seed=0)
    for outcome in outcomes.values():
        assert outcome.blows.total() == 4
        assert outcome.completions >= 1
        assert outcome.differing == []
