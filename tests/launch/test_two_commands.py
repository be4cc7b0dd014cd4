"""Four pairs of commands for one folder, with random planning times; benchmarks/two_commands.py does it with more."""

from __future__ import annotations

import pytest

from benchmarks.two_commands import try_pairs


@pytest.mark.slow
def test_one_of_two_commands_completes_and_the_other_ends_with_the_table(tmp_path):
    found = try_pairs(tmp_path, pairs=4, seed=3, stages=("extract", "judge"))
    assert found["wrong"] == []
    assert found["counts"]["extract"] + found["counts"]["judge"] == 4
