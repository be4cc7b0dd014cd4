"""The ledger against a plain model of it, and the budget against its own history."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_layouts.budget import Budget, Hold
from storage_layouts.errors import CorruptError
from storage_layouts.files import read_json
from storage_layouts.ledger import Ledger
from storage_layouts.ledger_lines import sealed

STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["sent", "answered", "released", "lost"]),
        st.integers(0, 5),
        st.integers(0, 99),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, cut=st.integers(0, 200))
def test_every_reader_sees_what_was_written(tmp_path_factory: pytest.TempPathFactory, steps, cut: int) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    writers = [Ledger(folder, f"run{i}") for i in range(3)]
    answers: set[str] = set()
    spent, calls = [0, 0, 0], [[], [], []]
    for who, what, number, amount in steps:
        if what == "sent":
            calls[who] += writers[who].sent([(f"key{number}", amount)], time.time() + 1000)
        elif calls[who]:
            call = calls[who].pop(number % len(calls[who]))
            if what == "answered":
                writers[who].answered(call, {"text": str(amount)}, amount)
                answers.add(call.key)
                spent[who] += amount
            else:
                getattr(writers[who], what)([call])
                spent[who] += call.reserved if what == "lost" else 0
    late = Ledger(folder, "late")
    for reader in (late, *writers):
        reader.refresh()
        assert {f"key{i}" for i in range(6) if reader.state(f"key{i}") == "answered"} == answers
        for who, writer in enumerate(writers):
            assert reader.committed(writer.writer) == (spent[who], sum(call.reserved for call in calls[who]))
        for i in range(6):
            under_way = any(call.key == f"key{i}" for own in calls for call in own)
            if f"key{i}" not in answers:
                assert reader.state(f"key{i}") == ("under way" if under_way else "free")
    # A torn last line was never acted upon: what stands before it is read, and the rest when it is whole.
    for path in folder.glob("*.jsonl"):
        whole = path.read_bytes()
        at = max(0, len(whole) - cut)
        path.write_bytes(whole[:at])
        torn = Ledger(folder, "torn")
        torn.refresh()
        path.write_bytes(whole)
        torn.refresh()
        assert [torn.committed(one.writer) for one in writers] == [late.committed(one.writer) for one in writers]


def test_an_answer_is_read_back_as_it_was_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "run")
    (call,) = ledger.sent([("key", 10)], time.time())
    ledger.answered(call, {"text": "ünï\ncode", "usage": {"input_tokens": 3}}, 7)
    other = Ledger(tmp_path, "other")
    other.refresh()
    assert ledger.answer("key") == other.answer("key") == {"text": "ünï\ncode", "usage": {"input_tokens": 3}, "cost": 7}
    assert other.answer("no such key") is None


def test_what_was_under_way_in_a_killed_process_is_unknown(tmp_path: Path) -> None:
    script = (
        "import sys, time; from storage_layouts.ledger import Ledger; ledger = Ledger(sys.argv[1], 'run');"
        "ledger.sent([('key', 5)], time.time() + 1000); print('sent', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "sent\n"
    ledger = Ledger(tmp_path, "other")
    ledger.refresh()
    assert ledger.state("key") == "under way"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert ledger.state("key") == "unknown"
    assert [call.key for call in ledger.open_calls()] == ["key"]
    ledger.lost(ledger.open_calls("key"))
    assert (ledger.state("key"), ledger.open_calls()) == ("free", [])


def test_a_call_of_another_machine_is_unknown_when_its_time_is_over(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "run")
    ledger.sent([("key", 5)], time.time() + 100)
    (path,) = tmp_path.glob("*.jsonl")
    first, rest = path.read_text().split("\n", 1)
    opened = json.loads(first)
    opened["process"] |= {"host": "elsewhere", "machine": "another boot"}
    del opened["crc32c"]
    path.write_bytes(sealed(opened) + rest.encode())
    other = Ledger(tmp_path, "other")
    other.refresh()
    assert other.state("key") == "under way"
    assert other.state("key", now=time.time() + 200) == "unknown"


def test_a_damaged_line_is_one_clear_message(tmp_path: Path) -> None:
    Ledger(tmp_path, "run").sent([("key", 5)], time.time())
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(b"not json\n" + path.read_bytes())
    with pytest.raises(CorruptError, match=r"in line 1 .*not json.*delete this line alone"):
        Ledger(tmp_path, "other").refresh()


def test_no_interleaving_of_writers_passes_the_limit(tmp_path: Path) -> None:
    limit = 1000

    def spend(name: str) -> None:
        random, budget, held, spent = Random(name), Budget(tmp_path), 0, 0
        for _ in range(40):
            asked = spent + random.randrange(200)
            if budget.hold(name, asked, spent, wanted=asked + random.randrange(100)):
                held = budget.holds.get(name, Hold(0, 0)).held
                spent += random.randrange(max(1, held - spent + 1))

    Budget(tmp_path).set_limit(limit)
    threads = [threading.Thread(target=spend, args=(f"writer{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    holds: dict[str, int] = {}
    entries = sorted(path for path in tmp_path.iterdir() if path.suffix == ".json")
    assert [path.stem for path in entries] == [f"{i + 1:06d}" for i in range(len(entries))]
    most = 0
    for path in entries[1:]:
        entry = read_json(path)
        holds[entry["writer"]] = entry["held"]
        most = max(most, sum(holds.values()))
    assert 0.9 * limit < most <= limit


def test_a_limit_can_be_raised_lowered_and_lifted(tmp_path: Path) -> None:
    budget = Budget(tmp_path)
    budget.refresh()
    assert not budget.is_set
    budget.set_limit(100)
    assert budget.hold("a", 80, 0)
    assert not budget.hold("b", 21, 0)
    assert budget.hold("b", 20, 0, wanted=50)
    assert budget.holds["b"].held == 20
    budget.set_limit(50)
    assert budget.hold("a", 30, 30)  # less than before is always granted
    assert budget.left == 0
    assert not budget.hold("a", 31, 30)
    budget.set_limit(None)
    assert budget.hold("a", 10**12, 30)
    assert Budget(tmp_path).left is None
