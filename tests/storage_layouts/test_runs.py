"""The run folder: created once, refused to others, and complete only by its receipts."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
from pathlib import Path

import pytest

from storage_layouts.errors import CorruptError, IncompleteError, InputError
from storage_layouts.files import write_atomic
from storage_layouts.runs import Plan, Receipt, RunFolder, Shard
from storage_layouts.verification import verify

CONFIG = {"model": "m", "layers": (1, 2), "nested": {"per_token": 20, "name": "a"}}
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A planned run of 25 items in three shards, the last one smaller."""
    run = RunFolder.create(tmp_path / "run", "extract", CONFIG, {"corpus": "1234"})
    run.write_plan(25, 10, {}, {"tokens": 7})
    return run


def finish(run: RunFolder, shard: Shard) -> Receipt:
    digest = write_atomic(run.path / f"data/{shard.name}", shard.name.encode())
    receipt = Receipt(shard.index, shard.items, {f"data/{shard.name}": digest}, {"skipped": [1]})
    run.write_receipt(receipt)
    return receipt


def test_the_same_command_resumes(run: RunFolder) -> None:
    before = (run.path / "run.json").read_bytes()
    again = RunFolder.create(run.path, "extract", {**CONFIG, "layers": [1, 2]}, {"corpus": "1234"})
    assert again.run_id == run.run_id
    assert (run.path / "run.json").read_bytes() == before
    opened = RunFolder.open(run.path, "extract")
    assert (opened.stage, opened.config["nested"], opened.inputs) == ("extract", CONFIG["nested"], {"corpus": "1234"})
    assert opened.plan == Plan(25, 10, {}, {"tokens": 7})
    assert opened.plan.shards() == [Shard(0, 0, 10), Shard(1, 10, 20), Shard(2, 20, 25)]


def test_another_configuration_is_refused_with_a_table(run: RunFolder) -> None:
    other = {"model": "m" * 30 + "x" * 50, "layers": [1, 2], "nested": {"per_token": 10, "name": "a"}, "new": True}
    with pytest.raises(InputError) as refused:
        RunFolder.create(run.path, "extract", other, {"corpus": "1234"})
    first, *table = str(refused.value).splitlines()
    assert first.startswith(f"{run.path}: this folder belongs to another run")
    rows = [[cell.strip() for cell in line.split("|")] for line in table]
    assert rows[0] == ["field", "in the folder", "asked for"]
    assert [row[0] for row in rows[1:]] == ["config.model", "config.nested.per_token", "config.new"]
    assert rows[2][1:] == ["20", "10"]
    assert rows[3][1:] == ["(absent)", "true"]
    assert max(map(len, table)) < 130


def test_long_values_are_cut_so_that_the_difference_shows(tmp_path: Path) -> None:
    start = "/very/long/folder" * 20
    RunFolder.create(tmp_path / "run", "s", {"path": start + "/one"}, {}).write_plan(1, 1, {}, {})
    with pytest.raises(InputError) as refused:
        RunFolder.create(tmp_path / "run", "s", {"path": start + "/two"}, {})
    assert '/one"' in str(refused.value)
    assert '/two"' in str(refused.value)


def test_other_stages_files_and_folders_are_refused(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'stage +\| "extract" +\| "judge"'):
        RunFolder.create(run.path, "judge", CONFIG, {"corpus": "1234"})
    with pytest.raises(InputError, match="stage 'extract', expected 'analyze'"):
        RunFolder.open(run.path, "analyze")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    (tmp_path / "file").write_text("x")
    for path, message in ((tmp_path / "full", "thesis.tex"), (tmp_path / "file", "place of a folder")):
        with pytest.raises(InputError, match=message):
            RunFolder.create(path, "extract", CONFIG, {})
        with pytest.raises(InputError, match="not a run folder"):
            RunFolder.open(path)


def test_a_folder_with_leftovers_of_a_kill_can_be_taken(tmp_path: Path) -> None:
    (tmp_path / ".run.json.0123.partial").write_text("{")
    assert RunFolder.create(tmp_path, "extract", CONFIG, {}).stage == "extract"


def test_of_commands_that_plan_for_one_folder_the_first_to_settle_has_it(tmp_path: Path) -> None:
    slow = RunFolder.create(tmp_path, "extract", {"corpus": "large", "seed": 0}, {})
    refused = RunFolder.create(tmp_path, "extract", {"corpus": "not UTF-8"}, {})
    fast = RunFolder.create(tmp_path, "extract", {"corpus": "small", "seed": 0}, {})
    assert RunFolder.open(tmp_path).config == {"corpus": "small", "seed": 0}  # planned last, for `lens status`
    assert {path.name for path in tmp_path.iterdir()} == {"planning.json"}
    with pytest.raises(IncompleteError, match=r"planning has not ended \(begun 20.*; if no command is at work"):
        verify(tmp_path)
    fast.settle()
    assert {path.name for path in tmp_path.iterdir()} == {"run.json"}
    before = snapshot(tmp_path)
    actions = {
        "settle": slow.settle,
        "plan": lambda: slow.write_plan(1, 1, {}, {}),
        "beat": lambda: slow.beat("w"),
        "again": lambda: RunFolder.create(tmp_path, "extract", {"corpus": "large", "seed": 0}, {}),
    }
    for name, action in actions.items():
        with pytest.raises(InputError, match=r'config.corpus +\| "small" +\| "large"') as lost:
            action()
        assert "delete it if no command works on it" in str(lost.value), name
    fast.write_plan(1, 1, {}, {})
    with pytest.raises(InputError, match=r'config.corpus +\| "small" +\| "large"') as lost:
        slow.plan  # noqa: B018
    assert "delete" not in str(lost.value)
    (tmp_path / "plan.json").unlink()
    assert snapshot(tmp_path) == before
    with pytest.raises(InputError, match="belongs to another run"):
        refused.settle()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_planner_that_was_killed_or_refused_leaves_the_folder_free(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "extract", {"corpus": "not UTF-8"}, {}).beat("launcher-1")
    run = RunFolder.create(tmp_path, "extract", {"corpus": "mended"}, {})
    run.write_plan(1, 1, {}, {})
    finish(run, run.plan.shard(0))
    (tmp_path / "planning.json").write_text("{}")  # of a command that looked before and wrote after
    run.remove_leftovers()
    assert not (tmp_path / "planning.json").exists()


def refuse(run: RunFolder) -> None:
    with contextlib.suppress(InputError), run.withdrawn_if_refused():
        run.beat("launcher-1")
        run.end_beat("launcher-1")
        raise InputError("of the corpus")


def test_a_refusal_before_any_work_leaves_nothing(tmp_path: Path) -> None:
    refuse(RunFolder.create(tmp_path / "new" / "run", "extract", CONFIG, {}))
    assert not any(tmp_path.iterdir())
    (tmp_path / "empty").mkdir()
    refuse(RunFolder.create(tmp_path / "empty", "extract", CONFIG, {}))
    assert snapshot(tmp_path) == {}
    assert (tmp_path / "empty").is_dir()


def test_a_refusal_leaves_what_others_need(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "extract", CONFIG, {})
    RunFolder.create(tmp_path, "extract", {"corpus": "of another command"}, {})
    refuse(run)
    assert RunFolder.open(tmp_path).config == {"corpus": "of another command"}
    run = RunFolder.create(tmp_path, "extract", CONFIG, {})
    run.beat("launcher-2")
    refuse(run)
    assert RunFolder.open(tmp_path).run_id == run.run_id
    run.end_beat("launcher-2")
    run.settle()
    (tmp_path / "planning").mkdir()
    run.release()  # workers were refused the corpus: what they have planned stays
    refuse(run)
    assert RunFolder.create(tmp_path, "extract", {"corpus": "mended"}, {}).config == {"corpus": "mended"}
    run.settle()
    before = snapshot(tmp_path)
    refuse(run)
    assert snapshot(tmp_path) == before


def test_commands_with_the_same_settings_plan_together(tmp_path: Path) -> None:
    runs = [RunFolder.create(tmp_path, "extract", CONFIG, {}, command=f"lens {i}") for i in range(2)]
    for run in runs:
        run.write_plan(1, 1, {}, {})
    assert [run.created["command"] for run in runs] == ["lens 0", "lens 0"]
    assert RunFolder.open(tmp_path).created == runs[1].created


def test_what_a_stage_adds_to_its_folder_waits_until_the_folder_is_its_own(tmp_path: Path) -> None:
    told: list[str] = []
    first = RunFolder.create(tmp_path, "extract", {"seed": 1}, {}, then=lambda run: told.append("first"))
    other = RunFolder.create(tmp_path, "extract", {"seed": 2}, {}, then=lambda run: told.append("other"))
    assert told == []
    first.settle()
    first.write_plan(1, 1, {}, {})
    with pytest.raises(InputError, match="belongs to another run"):
        other.settle()
    assert told == ["first"]
    RunFolder.create(tmp_path, "extract", {"seed": 1}, {}, then=lambda run: told.append("again"))
    assert told == ["first", "again"]


def settle_at_once(path: Path, seed: int, barrier: object, answers: object) -> None:
    run = RunFolder.create(path, "extract", {"seed": seed}, {})
    barrier.wait()
    answers.put((seed, attempt(lambda: run.write_plan(1, 1, {}, {"seed": seed}))))


def test_of_processes_that_settle_at_the_same_moment_one_wins(tmp_path: Path) -> None:
    barrier, answers = SPAWN.Barrier(3), SPAWN.Queue()
    for turn in range(3):
        path = tmp_path / str(turn)
        processes = [SPAWN.Process(target=settle_at_once, args=(path, i, barrier, answers)) for i in range(3)]
        for process in processes:
            process.start()
        found = dict(answers.get(timeout=60) for _ in processes)
        for process in processes:
            process.join()
        (winner,) = (seed for seed, refusal in found.items() if not refusal)
        assert RunFolder.open(path).config == {"seed": winner}
        assert RunFolder.open(path).plan.facts == {"seed": winner}
        assert sum("config.seed" in refusal for refusal in found.values()) == 2


def test_a_run_that_lost_its_plan_does_not_give_way(run: RunFolder) -> None:
    finish(run, run.plan.shard(0))
    (run.path / "plan.json").unlink()
    with pytest.raises(InputError, match="belongs to another run"):
        RunFolder.create(run.path, "extract", {"seed": 1}, {})
    again = RunFolder.create(run.path, "extract", CONFIG, {"corpus": "1234"})
    again.write_plan(25, 10, {}, {"tokens": 7})
    assert [receipt.shard for receipt in again.receipts()] == [0]


def attempt(action) -> str:
    try:
        action()
    except InputError as error:
        return str(error)
    return ""


def test_a_lost_run_json_comes_back_by_the_same_command_only(run: RunFolder) -> None:
    (run.path / "run.json").unlink()
    with pytest.raises(InputError, match=r"no run\.json"):
        RunFolder.create(run.path, "extract", {**CONFIG, "model": "other"}, {"corpus": "1234"})
    RunFolder.create(run.path, "extract", CONFIG, {"corpus": "1234"})
    assert RunFolder.open(run.path).run_id == run.run_id
    assert RunFolder.open(run.path).plan == run.plan


def test_receipts_alone_say_what_is_done(run: RunFolder) -> None:
    assert not run.is_complete()
    shards = run.plan.shards()
    receipts = [finish(run, shard) for shard in (shards[2], shards[0])]
    again = RunFolder.open(run.path)
    assert again.done() == {0, 2}
    assert again.missing() == [shards[1]]
    with pytest.raises(IncompleteError, match=r"1 of 3 shards are missing \(00001\); repeat the command"):
        again.require_complete()
    assert list(again.receipts()) == receipts[::-1]
    assert again.read_receipt(1) is None
    first = (run.path / "receipts/00000.json").read_bytes()
    finish(run, shards[0])
    assert (run.path / "receipts/00000.json").read_bytes() == first
    finish(run, shards[1])
    assert again.is_complete()
    again.require_complete()
    (run.path / "receipts/00001.json").unlink()
    assert not again.is_complete()


def test_files_that_are_no_receipts_do_not_count(run: RunFolder) -> None:
    finish(run, run.plan.shard(0))
    for name in (".00001.json.0123.partial", "1.json", "000001.json", "00001.json.bak", "x.json"):
        (run.path / "receipts" / name).write_text("")
    (run.path / "receipts/00007.json").write_text("of an older, larger plan")
    assert [shard.index for shard in run.missing()] == [1, 2]
    assert [receipt.shard for receipt in run.receipts()] == [0]


def test_no_receipt_before_its_data(run: RunFolder) -> None:
    digest = write_atomic(run.path / "data/0", b"data")
    (run.path / "data/0").unlink()
    with pytest.raises(CorruptError, match="no such file"):
        run.write_receipt(Receipt(0, 10, {"data/0": digest}))
    with pytest.raises(IndexError):
        run.write_receipt(Receipt(3, 10))
    for name in ("../outside", "/tmp/outside", "a//b", "a\\b"):
        with pytest.raises((ValueError, CorruptError)):
            run.write_receipt(Receipt(0, 10, {name: digest}))
    assert run.done() == set()


def test_before_the_plan_nothing_is_complete(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "extract", CONFIG, {})
    assert run.plan is None
    assert not run.is_complete()
    for refused in (run.missing, run.require_complete):
        with pytest.raises(IncompleteError, match=r"no plan\.json"):
            refused()
    run.write_plan(0, 10, {}, {})
    assert run.is_complete()


def test_a_second_planner_must_find_the_same(run: RunFolder) -> None:
    run.write_plan(25, 10, {}, {"tokens": 7})
    with pytest.raises(InputError, match=r"facts.tokens +\| 7 +\| 8"):
        run.write_plan(25, 10, {}, {"tokens": 8})


def test_receipts_of_an_older_plan_are_refused(run: RunFolder) -> None:
    finish(run, run.plan.shard(0))
    (run.path / "plan.json").unlink()
    again = RunFolder.open(run.path)
    again.write_plan(25, 10, {}, {"tokens": 8})
    with pytest.raises(CorruptError, match=r"00000\.json: found a receipt of plan_id .*delete receipts/00000\.json"):
        list(again.receipts())


def test_many_receipts_are_one_listing(tmp_path: Path, monkeypatch) -> None:
    run = RunFolder.create(tmp_path, "analyze", {}, {})
    run.write_plan(20_000, 1, {}, {})
    (tmp_path / "receipts").mkdir()
    for index in range(20_000):
        os.close(os.open(tmp_path / f"receipts/{index:05d}.json", os.O_CREAT))
    calls = []
    for module, name in ((os, "listdir"), (os, "scandir"), (os, "stat"), (os, "open")):
        monkeypatch.setattr(module, name, counted(getattr(module, name), calls))
    assert len(run.done()) == 20_000
    assert len(calls) == 1
    assert run.missing() == []


def counted(function, calls: list):
    def call(*arguments: object, **named: object) -> object:
        calls.append(function)
        return function(*arguments, **named)

    return call


def create_and_plan(path: str, config: dict, start, queue) -> None:
    start.wait()
    try:
        run = RunFolder.create(path, "extract", config, {})
        run.write_plan(25, 10, {}, {"same": True})
        finish(run, run.plan.shard(0))
        queue.put(run.run_id)
    except InputError as error:
        queue.put(str(error).splitlines()[0])


@pytest.mark.parametrize("same", [True, False])
def test_two_processes_create_one_run(tmp_path: Path, same: bool) -> None:
    for attempt in range(3):
        queue, start, path = SPAWN.Queue(), SPAWN.Barrier(2), tmp_path / str(attempt) / "deep" / "run"
        configs = ({"seed": 0}, {"seed": 0 if same else 1})
        workers = [SPAWN.Process(target=create_and_plan, args=(str(path), c, start, queue)) for c in configs]
        for worker in workers:
            worker.start()
        outcomes = [queue.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join()
        run = RunFolder.open(path)
        if same:
            assert outcomes == [run.run_id] * 2
        else:
            refused = [outcome for outcome in outcomes if not re.fullmatch("[0-9a-f]{16}", outcome)]
            assert refused
            if len(refused) == 2:  # met in the middle, and both gave up: the folder is as good as new
                assert run.plan is None
                run.write_plan(25, 10, {}, {"same": True})
                finish(run, run.plan.shard(0))
            else:
                assert run.run_id in outcomes
        assert [receipt.shard for receipt in run.receipts()] == [0]


def test_attempts_survive_a_line_cut_off_by_a_kill(run: RunFolder) -> None:
    log = run.attempt("node1.w0")
    log.started(run.plan.shard(1))
    with log.path.open("ab") as file:
        file.write(b'{"event": "fini')
    log = run.attempt("node1.w0")
    log.failed(1, "Traceback\n  ...", 1.23456)
    run.attempt("node2").finished(1, 2)
    events = run.attempts_log()
    assert [(e["event"], e["shard"], e["worker"]) for e in events] == [
        ("started", 1, "node1.w0"),
        ("failed", 1, "node1.w0"),
        ("finished", 1, "node2"),
    ]
    assert events[1]["traceback"] == "Traceback\n  ..."
    assert events[1]["seconds"] == 1.235
    with pytest.raises(ValueError, match="worker name"):
        run.attempt("../escape")


def test_heartbeats_show_who_has_not_ended(run: RunFolder) -> None:
    assert run.heartbeats() == []
    run.beat("a", shard=1)
    run.beat("b", shard=2, done=7)
    run.beat("a", shard=3)
    (run.path / "heartbeats" / "c.json").write_text("{torn")
    assert [(beat["worker"], beat["shard"], beat.get("done")) for beat in run.heartbeats()] == [
        ("a", 3, None),
        ("b", 2, 7),
    ]
    assert all(abs(beat["modified"] - beat["time"]) < 5 for beat in run.heartbeats())
    run.end_beat("a")
    run.end_beat("a")
    assert [beat["worker"] for beat in run.heartbeats()] == ["b"]
