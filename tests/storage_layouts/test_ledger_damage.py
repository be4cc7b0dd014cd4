"""A ledger and a budget on a full disk, torn, changed, or of an older version."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_layouts.attempts import WorkerLog, read_attempts
from storage_layouts.budget import Budget
from storage_layouts.errors import CorruptError, InputError
from storage_layouts.files import canonical_json, write_json
from storage_layouts.ledger import ROOM_BYTES, Ledger
from storage_layouts.ledger_lines import read_answers
from storage_layouts.verification import verify


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        if os.environ.get("CLUSTER_TESTS") == "require":
            pytest.fail(f"cannot mount a small tmpfs: {mounted.stderr.decode()}")
        pytest.skip("cannot mount a small tmpfs here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a ledger is open


def filled(folder: Path) -> Path:
    """Fill the disk to the last byte; the file that does."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 12))
    return path


def test_replies_to_the_calls_under_way_are_kept_on_a_full_disk(small_disk: Path) -> None:
    ledger = Ledger(small_disk / "ledger", "run")
    calls = ledger.sent([(f"key{i}", 10) for i in range(16)], time.time() + 60)
    filled(small_disk)
    with pytest.raises(InputError, match="disk full"):
        Budget(small_disk / "budget").set_limit(5)
    for call in calls:
        ledger.received(call, 200, "x" * 20_000)
        ledger.answered(call, {"text": "y" * 1000}, 7)
    with pytest.raises(InputError, match="disk full"):  # no more calls: nobody could keep their replies
        ledger.sent([("more", 10)], time.time() + 60)
    reader = Ledger(small_disk / "ledger", "reader")
    reader.refresh()
    assert all(reader.state(f"key{i}") == "answered" for i in range(16))
    assert reader.state("more") == "free"
    assert reader.committed(ledger.writer) == (16 * 7, 0)


def test_a_line_that_a_full_disk_cuts_off_leaves_a_readable_ledger(small_disk: Path) -> None:
    ledger = Ledger(small_disk / "ledger", "run")
    calls = ledger.sent([(f"key{i}", 10) for i in range(4)], time.time() + 60)
    filler = filled(small_disk)
    for _ in range(6):
        ledger.received(calls[0], 200, "x" * (ROOM_BYTES // 7))
    with pytest.raises(InputError, match="disk full"):  # the room is used up too
        ledger.received(calls[0], 200, "x" * ROOM_BYTES)
    filler.unlink()
    ledger.lost(calls)  # the next line is not glued to the torn one
    reader = Ledger(small_disk / "ledger", "reader")
    reader.refresh()
    assert reader.committed(ledger.writer) == (40, 0)
    assert {reader.state(f"key{i}") for i in range(4)} == {"free"}


def test_a_line_of_the_attempts_is_not_glued_to_a_torn_one(small_disk: Path) -> None:
    attempts = WorkerLog(small_disk / "attempts", "w")
    filler = filled(small_disk)
    with pytest.raises(InputError, match="disk full"):
        attempts.broken("x" * 99_999)
    filler.unlink()
    attempts.refused("the last words")
    lines = (small_disk / "attempts" / "w.jsonl").read_bytes().splitlines()
    assert read_attempts(small_disk / "attempts")[-1]["message"] == "the last words"
    assert len(read_attempts(small_disk / "attempts")) == len(lines)


def old_lines(*events: dict) -> bytes:
    """As versions without checksums wrote them."""
    process = {"host": "elsewhere", "pid": 1, "machine": "boot", "born": "1"}
    opened = {"event": "opened", "run": "run", "process": process}
    return b"".join(canonical_json({**event, "at": 1764374400.5}) + b"\n" for event in (opened, *events))


SENT = {"event": "sent", "call": "c1", "key": "key1", "reserved": 5, "until": 2e9}
ANSWERED = {"event": "answered", "call": "c1", "key": "key1", "cost": 3, "answer": {"text": 'a "{\\"at\\": " b'}}


def test_a_ledger_of_an_older_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "run-w.jsonl").write_bytes(old_lines(SENT, ANSWERED))
    ledger = Ledger(tmp_path, "new")
    ledger.refresh()
    assert (ledger.state("key1"), ledger.committed("run-w")) == ("answered", (3, 0))
    assert [answer["text"] for answer in read_answers(tmp_path)] == [ANSWERED["answer"]["text"]]


def test_a_negative_cost_of_an_older_version_is_the_worst_case(tmp_path: Path) -> None:
    (tmp_path / "run-w.jsonl").write_bytes(old_lines(SENT, ANSWERED | {"cost": -45}))
    ledger = Ledger(tmp_path, "new")
    ledger.refresh()
    assert ledger.committed("run-w") == (5, 0)


@given(cut=st.integers(1, 10_000), text=st.text(max_size=40))
def test_a_torn_line_with_the_next_one_glued_to_it_is_skipped(
    tmp_path_factory: pytest.TempPathFactory, cut: int, text: str
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    opened, sent, answered = old_lines(SENT, ANSWERED | {"answer": {"text": text}}).splitlines(keepends=True)
    lost = old_lines({"event": "lost", "call": "c1"}).splitlines(keepends=True)[1]
    (folder / "run-w.jsonl").write_bytes(opened + sent + answered[: 1 + cut % (len(answered) - 2)] + lost)
    ledger = Ledger(folder, "new")
    ledger.refresh()
    assert (ledger.state("key1"), ledger.committed("run-w")) == ("free", (5, 0))


def test_two_lines_whose_boundary_was_changed_are_no_torn_line(tmp_path: Path) -> None:
    data = old_lines(SENT, ANSWERED, {"event": "lost", "call": "c2"})
    place = data.index(b"\n", data.index(b'"answered"'))
    (tmp_path / "run-w.jsonl").write_bytes(data[:place] + b"x" + data[place + 1 :])
    with pytest.raises(CorruptError, match=r"run-w.jsonl: found changed bytes in line 3 .*delete this line alone"):
        Ledger(tmp_path, "new").refresh()


@pytest.fixture(scope="module")
def judge_run(tmp_path_factory: pytest.TempPathFactory, builders) -> Path:
    """A judge run that asked somebody, with a worker that was killed."""
    run = tmp_path_factory.mktemp("judged") / "run"
    builders.judge(run)
    write_json(run / "terms.json", {"ledger": None, "max_cost": 2.0})
    budget, ledger = Budget(run / "budget"), Ledger(run / "ledger", "0" * 16)
    budget.set_limit(2000)
    budget.hold(ledger.writer, 200, 0)
    for i, call in enumerate(ledger.sent([(f"key{i}", 10) for i in range(4)], time.time() + 60)):
        ledger.received(call, 200, f'{{"n": {i}}}')
        if i < 2:
            ledger.answered(call, {"text": "ä\n"}, 7)
        elif i == 2:
            ledger.failed(call, 1)
    budget.hold(ledger.writer, 25, 15)
    ledger.close()
    return run


def money_files(run: Path) -> list[Path]:
    return sorted([*run.glob("ledger/*"), *run.glob("budget/*"), run / "terms.json"])


def test_verify_looks_at_ledger_budget_and_terms(judge_run: Path) -> None:
    outcome = verify(judge_run)
    assert outcome.problems == []
    assert outcome.files == sum(1 for path in judge_run.rglob("*") if path.is_file())
    assert verify(judge_run / "ledger") == ([], 1, [])


@settings(max_examples=300, deadline=None)
@given(data=st.data(), mask=st.integers(1, 255))
def test_any_changed_byte_is_named_and_pays_nothing_twice(judge_run: Path, data: st.DataObject, mask: int) -> None:
    file = data.draw(st.sampled_from(money_files(judge_run)), label="file")
    whole = file.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1), label="place")
    name = file.relative_to(judge_run).as_posix()
    try:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
        assert [problem.file for problem in verify(judge_run).problems] == [name]
        assert all(problem.remedy for problem in verify(judge_run).problems)
        if name.startswith("ledger"):
            assert [problem.file for problem in verify(judge_run / "ledger").problems] == [file.name]
            with pytest.raises(CorruptError) as refused:
                Ledger(judge_run / "ledger", "new").refresh()
            assert f"{file}: found changed bytes in line " in str(refused.value)
            assert "\n" not in str(refused.value)
        elif name.startswith("budget"):
            with pytest.raises(CorruptError):
                Budget(judge_run / "budget").refresh()
    finally:
        file.write_bytes(whole)


def test_lines_that_are_missing_from_the_end_are_noticed_by_what_was_spent(judge_run: Path) -> None:
    (file,) = judge_run.glob("ledger/*")
    whole = file.read_bytes()
    try:
        file.write_bytes(b"".join(whole.splitlines(keepends=True)[:6]))
        (problem,) = verify(judge_run).problems
        assert problem.file == f"ledger/{file.name}"
        assert problem.found == "0 nanodollars spent"
    finally:
        file.write_bytes(whole)


def test_a_budget_without_one_of_its_entries_is_named(judge_run: Path) -> None:
    first = judge_run / "budget" / "000001.json"
    whole = first.read_bytes()
    first.unlink()
    try:
        assert [problem.file for problem in verify(judge_run).problems] == ["budget/000001.json"]
    finally:
        first.write_bytes(whole)


def test_a_reply_that_nobody_read_waits_for_whoever_asks_next(tmp_path: Path) -> None:
    writer = Ledger(tmp_path, "run")
    (call,) = writer.sent([("key", 10)], time.time() - 1000)
    writer.received(call, 200, "\udc80 not UTF-8 \x00")
    assert writer.state("key") == "kept"
    opened = json.loads(next(tmp_path.glob("*.jsonl")).read_bytes().splitlines()[0])
    assert opened["format"] == 2
    reader = Ledger(tmp_path, "new")
    reader.refresh()
    assert reader.state("key") == "kept"
    assert reader.received_of(reader.kept("key")) == (200, "\udc80 not UTF-8 \x00", True)
    reader.failed(call, 4)
    assert reader.state("key") == "free"
    assert reader.committed(writer.writer) == (4, 0)
