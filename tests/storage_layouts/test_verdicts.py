"""Verdicts come back as they were, with any words in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_layouts.errors import CorruptError, IncompleteError
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import COLUMNS, OUTCOMES, Verdict, parse_verdicts, read_verdicts, write_verdicts


@settings(max_examples=50, deadline=None)
@given(words=st.lists(st.text()), reply=st.text(), outcome=st.sampled_from(OUTCOMES), cost=st.floats(0, 1e9))
def test_any_words_and_replies_come_back(tmp_path_factory, words, reply, outcome, cost) -> None:
    file = tmp_path_factory.mktemp("verdicts") / "part.jsonl"
    verdict = Verdict(
        1, 0, 2, 3, 4, "logit", "random-words", tuple(words), outcome, (), reply, {"cost": cost}, "j", "k"
    )
    write_verdicts(file, [verdict, verdict])
    assert parse_verdicts(file, file.read_bytes()) == [verdict, verdict]


def test_a_run_of_verdicts_is_one_table_in_shard_order(small_runs, builders) -> None:
    frame = read_verdicts(RunFolder.open(small_runs.judge))
    assert tuple(frame.columns) == COLUMNS
    assert frame["image_id"].tolist() == [0, 0, 1, 1, 2, 2]
    assert frame["outcome"].tolist() == ["yes", "no"] * 3
    assert Verdict(**frame.iloc[3].to_dict()) == builders.verdict(1, outcome="no")


def test_no_rate_from_a_part_of_the_verdicts(tmp_path: Path, builders) -> None:
    builders.judge(tmp_path)
    (tmp_path / "receipts/00002.json").unlink()
    with pytest.raises(IncompleteError, match="00002"):
        read_verdicts(RunFolder.open(tmp_path))


def test_what_is_no_verdict_is_refused(tmp_path: Path, builders) -> None:
    with pytest.raises(ValueError, match="maybe"):
        builders.verdict(0, outcome="maybe")
    with pytest.raises(ValueError, match="other-image"):
        builders.verdict(0, control="other-image")
    file = tmp_path / "part.jsonl"
    write_verdicts(file, [builders.verdict(0)])
    line = file.read_bytes()
    for wrong in (b"[]\n", b"{}\n", line.replace(b'"yes"', b'"maybe"'), line[:-9] + b"\n"):
        with pytest.raises(CorruptError, match="line 2"):
            parse_verdicts(file, line + wrong)
