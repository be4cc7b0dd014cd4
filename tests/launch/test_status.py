"""What `lens status` says of runs in every state, against states that were made by hand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time

import pytest

from jobs.extract_job import ExtractJob
from jobs.worker import WorkerOptions, run_worker
from launch import cli, extract, status
from launch.run_status.reading import status_of
from storage_layouts.files import write_atomic
from storage_layouts.runs import Receipt, RunFolder
from tests.conftest import WORDS

LONG_AGO = 5000.0


def make_run(path, items=40, planned=True):
    run = RunFolder.create(path, "extract", {"name": path.name}, {})
    if planned:
        run.write_plan(items, 4, {}, {})
    return run


def finish(run, shard, size=100):
    name = f"data/{shard:05d}"
    digest = write_atomic(run.path / name, b"x" * size)
    run.write_receipt(Receipt(shard, run.require_plan().shard(shard).items, {name: digest}))


def age(path, seconds):
    """Make every file look old."""
    for found in [path, *path.rglob("*")]:
        os.utime(found, (time.time() - seconds,) * 2)


def look(capsys, *words):
    """Exit code, and the JSON document if it was asked for, else the text."""
    code = cli.main(["status", *map(str, words)])
    out = capsys.readouterr().out
    return code, json.loads(out) if "--json" in words else out


@pytest.fixture
def mixed(tmp_path):
    """Ten shards of four items: 0 to 2 done, 3 running, 4 and 5 stale, 6 and 7 failed, 8 and 9 pending."""
    run = make_run(tmp_path / "mixed")
    journal = run.attempt("alive", "/logs/alive.out")
    for shard in range(3):
        journal.started(shard)
        finish(run, shard)
        journal.finished(shard, 2.0, 4, 100)
    run.beat("alive", shard=3, device="cuda:0", gpu="2", stale_after=30.0, log="/logs/alive.out")
    run.beat("silent", shard=4, device="cuda:0", stale_after=30.0)
    os.utime(run.path / "heartbeats" / "silent.json", (time.time() - 100,) * 2)
    # A process that has ended: its heartbeat is fresh, but nobody beats any more.
    beat = "import sys; from storage_layouts.runs import RunFolder; RunFolder.open(sys.argv[1]).beat('gone', shard=5)"
    subprocess.run([sys.executable, "-c", beat, str(run.path)], check=True)
    for _ in range(3):
        run.note_failure(6, "alive", "Traceback:\n  deep inside\nRuntimeError: shard 6 is cursed", "/logs/six.out")
        journal.failed(6, "Traceback:\n  deep inside\nRuntimeError: shard 6 is cursed", 1.0)
    run.note_failure(7, "silent", "Traceback:\nOSError: once", "/logs/seven.out")
    return run


def test_a_folder_of_runs_shows_each_run_in_it(mixed, tmp_path, capsys):
    deep = make_run(tmp_path / "model" / "corpus" / "results")
    code, document = look(capsys, tmp_path, "--json")
    assert code == 1
    assert [run["path"] for run in document["runs"]] == [str(mixed.path), str(deep.path)]
    (tmp_path / "none").mkdir()
    assert cli.main(["status", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
    assert cli.main(["status"]) == 2
    assert "no run is named" in capsys.readouterr().err


def test_a_damaged_run_in_a_folder_of_runs_hides_no_other(mixed, tmp_path, capsys):
    damaged = make_run(tmp_path / "damaged").path
    (damaged / "run.json").write_bytes(b"")
    assert cli.main(["status", str(tmp_path), "--json"]) == 1
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert [run["path"] for run in document["runs"]] == [str(mixed.path)]
    assert [run["path"] for run in document["unread"]] == [str(damaged)]
    assert f"{damaged / 'run.json'}: found 0 bytes" in said.err
    assert cli.main(["status", str(damaged)]) == 2


def test_every_shard_is_in_one_state_and_the_numbers_add_up(mixed, capsys):
    code, document = look(capsys, mixed.path, "--json")
    assert code == 1
    assert (document["format"], document["complete"]) == (1, False)
    (found,) = document["runs"]
    assert (found["stage"], found["run_id"], found["state"]) == ("extract", mixed.run_id, "running")
    assert (found["shards"], found["done"], found["pending"]) == (10, 3, 2)
    assert (found["running"], found["stale"]) == ([3], [4, 5])
    assert [(line["shard"], line["tries"], line["quarantined"]) for line in found["failed"]] == [
        (6, 3, True),
        (7, 1, False),
    ]
    assert "deep inside" in found["failed"][0]["traceback"]
    assert found["failed"][0]["log"] == "/logs/six.out"
    assert (found["items"], found["items_done"], found["bytes"]) == (40, 12, 300)
    # One living worker, 4 items in 2 seconds; six shards are left, as nobody takes the seventh up again.
    assert (found["items_per_second"], found["seconds_left"]) == (2.0, 12.0)
    assert found["seconds_spent"] == {"gpu": 9.0, "cpu": 0.0, "unknown": 0.0}
    assert {line["worker"]: line["alive"] for line in found["workers"]} == {
        "alive": True,
        "silent": False,
        "gone": False,
    }
    assert found["last_error"]["error"] == "OSError: once"
    assert found["queue"] is None


def test_failed_shows_whole_tracebacks_and_logs(mixed, capsys):
    code, text = look(capsys, mixed.path)
    assert code == 1
    assert (
        "3 of 10 shards done, 1 running, 2 stale, 2 failed, 2 pending, 12 of 40 rows, 2 rows/s, 12 s left, 300 bytes"
        in text
    )
    assert "OSError: once; log: /logs/seven.out" in text
    assert "deep inside" not in text
    _, text = look(capsys, mixed.path, "--failed")
    assert "  deep inside\nRuntimeError: shard 6 is cursed\n" in text
    assert "/logs/six.out" in text


def test_claims_tell_more_than_heartbeats(mixed):
    assert mixed.take(8, "alive")  # begun since its last heartbeat, which still names shard 3
    assert mixed.take(9, "silent")
    assert mixed.take(0, "gone") is None  # done
    found = status_of(mixed.path)
    assert (found.running, found.stale, found.pending) == ((3, 8), (4, 5, 9), 0)


def test_clocks_may_differ_a_little(mixed):
    beat = next(beat["modified"] for beat in mixed.heartbeats() if beat["worker"] == "alive")
    for seconds, running in ((-LONG_AGO, (3,)), (35, (3,)), (45, ())):
        found = status_of(mixed.path, now=beat + seconds)
        assert found.running == running
        assert found.seconds_left == (12.0 if running else None)
    assert found.stale == (3, 4, 5)


def test_reading_changes_nothing(mixed, capsys):
    def listing():
        found = sorted(mixed.path.rglob("*"))
        return [(str(p), p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in found]

    before = listing()
    for flags in ((), ("--json",), ("--failed",)):
        look(capsys, mixed.path, *flags)
    assert listing() == before


def test_a_torn_journal_line_costs_only_itself(mixed):
    with (mixed.path / "attempts" / "alive.jsonl").open("ab") as file:
        file.write(b'{"event": "finis\n')
    mixed.attempt("alive").finished(3, 8.0, 4, 50)
    found = status_of(mixed.path)
    assert found.items_per_second == pytest.approx(16 / 14)
    assert found.bytes == 300  # shard 3 has no receipt yet


def test_a_journal_without_items_and_bytes(tmp_path):
    run = make_run(tmp_path / "old", items=6)
    for shard in range(2):
        finish(run, shard, size=50)
    lines = [
        {
            "event": "finished",
            "shard": shard,
            "worker": "w",
            "host": "h",
            "pid": 1,
            "time": 100.0 + shard,
            "seconds": 1.0,
        }
        for shard in range(2)
    ]
    (run.path / "attempts").mkdir()
    (run.path / "attempts" / "w.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = status_of(run.path)
    assert (found.state, found.bytes, found.items_per_second) == ("complete", 100, 3.0)


def test_a_run_without_a_plan_tells_whether_somebody_plans(tmp_path, capsys):
    run = make_run(tmp_path / "run", planned=False)
    code, text = look(capsys, run.path)
    assert code == 1
    assert "stopped" in text
    assert "no living process is planning it" in text
    run.beat("launcher-1", role="launcher", shard=None, stale_after=30.0)
    code, text = look(capsys, run.path)
    assert code == 1
    assert "planning" in text
    assert "launcher-1 is planning it" in text


def test_an_interrupted_extract_run_and_its_completion(tiny_llm_folder, tmp_path, capsys):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"{a} {b}" for a in WORDS for b in WORDS))
    out = tmp_path / "store.zarr"
    job = ExtractJob(str(tiny_llm_folder), (corpus,), out, per_token=9, rows_per_shard=64)
    run = job.open_run()
    job.plan(run, lambda message: None)
    report = run_worker(out, WorkerOptions("cpu"), 0, 1, stop=lambda: len(run.done()) >= 2)
    assert report.finished == 2
    total = run.require_plan().shard_count
    (found,) = look(capsys, out, "--json")[1]["runs"]
    assert (found["state"], found["done"], found["pending"]) == ("stopped", 2, total - 2)
    assert (found["running"], found["stale"], found["failed"]) == ([], [], [])
    assert found["items_done"] == 128
    on_disk = sum(p.stat().st_size for folder in ("layers", "rows") for p in (out / folder).rglob("*") if p.is_file())
    on_disk += (out / "sentences.parquet").stat().st_size
    # Every receipt names the few small files that all shards share.
    assert found["bytes"] == pytest.approx(on_disk, rel=0.03)
    assert 0 < found["seconds_spent"]["cpu"] + found["seconds_spent"]["unknown"] < 60
    flags = ["--model", str(tiny_llm_folder), "--corpus", str(corpus), "--out", str(out)]
    assert extract.main([*flags, "--per-token", "9", "--rows-per-shard", "64", "--workers", "1"]) == 0
    capsys.readouterr()
    code, text = look(capsys, out, "--watch")
    assert code == 0
    assert f"complete, {total} of {total} shards done" in text


def test_watch_ends_on_a_dead_run_and_with_nothing_left_but_failures(mixed, capsys):
    for name in ("alive", "silent", "gone"):
        mixed.end_beat(name)
    age(mixed.path, LONG_AGO)
    code, text = look(capsys, mixed.path, "--watch")
    assert code == 1
    assert "stopped" in text
    assert "repeat the command to go on" in text
    for shard in {*range(10)} - {6}:
        finish(mixed, shard)
    code, text = look(capsys, mixed.path, "--watch")  # although it changed just now
    assert code == 1
    assert "--retry-failed" in text


def test_watch_follows_runs_until_all_are_complete(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(status, "SECONDS_BETWEEN_LOOKS", 0.02)
    runs = [make_run(tmp_path / name, items=8) for name in ("a", "b")]
    for run in runs:
        run.beat("w", shard=0)
    finish(runs[0], 0)
    finish(runs[0], 1)
    seen = threading.Event()
    looks = []

    def counted(path, now=None):
        looks.append(path)
        if len(looks) > 4:
            seen.set()
        return status_of(path, now)

    def complete():
        assert seen.wait(30)
        finish(runs[1], 0)
        finish(runs[1], 1)

    monkeypatch.setattr(status, "status_of", counted)
    thread = threading.Thread(target=complete)
    thread.start()
    code, document = look(capsys, *(run.path for run in runs), "--watch", "--json")
    thread.join()
    assert code == 0
    assert document["complete"]
    assert [run["done"] for run in document["runs"]] == [2, 2]


def test_ctrl_c_ends_the_watch_quietly(mixed, capsys, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", interrupted)
    code, text = look(capsys, mixed.path, "--watch")
    assert code == 1
    assert "3 of 10 shards done" in text


def test_what_is_no_run_is_refused(mixed, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert cli.main(["status", str(mixed.path), str(tmp_path / "empty"), "--json"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert f"{tmp_path / 'empty'}: not a run folder" in output.err


def test_slurms_words_are_shown_where_the_run_was_submitted(mixed, tmp_path, capsys, monkeypatch):
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho '7_0|RUNNING|n1|None'; echo '7_[1-2]|PENDING||Priority'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=os.pathsep)
    assert "SLURM" not in look(capsys, mixed.path)[1]
    submission = mixed.path / "submissions" / "1"
    submission.mkdir(parents=True)
    (submission / "7_submission.sh").touch()
    assert "SLURM: 1 pending (Priority), 1 running" in look(capsys, mixed.path)[1]
    for name in ("alive", "silent", "gone"):
        mixed.end_beat(name)
    (found,) = look(capsys, mixed.path, "--json")[1]["runs"]
    assert found["state"] == "waiting"
    assert found["queue"][0] == {"job": "7_0", "state": "RUNNING", "node": "n1", "reason": "None"}
    # No answer is not an empty queue, and a job that wrote into its log before it ended is not forgotten.
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1\n")
    (submission / "7_0_0_log.err").write_text("srun: error: n1: task 0: Killed\n")
    code, text = look(capsys, mixed.path)
    assert code == 1
    assert ": unknown, 3 of 10" in text
    assert "SLURM's controller does not answer (squeue: slurm_load_jobs error: Unable to contact" in text
    assert "no worker is alive" not in text
    (found,) = look(capsys, mixed.path, "--json")[1]["runs"]
    assert (found["state"], found["queue"]) == ("unknown", None)
    assert found["last_error"]["error"] == "n1: task 0: Killed (SIGKILL; often more memory than --memory)"
    assert found["last_error"]["log"] == str(submission / "7_0_0_log.err")
    assert re.search(r"SLURM job 7_0 ended, .* ago: n1: task 0: Killed", look(capsys, mixed.path, "--failed")[1])


def test_a_killed_worker_is_told_of_by_its_log(mixed, tmp_path, capsys):
    log = tmp_path / "worker.log"
    log.write_text("Fatal Python error: Bus error\n")
    beat = (
        "import sys; from storage_layouts.runs import RunFolder; "
        "RunFolder.open(sys.argv[1]).beat('killed', shard=8, log=sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", beat, str(mixed.path), str(log)], check=True)
    text = look(capsys, mixed.path)[1]
    assert "last error (worker killed, " in text
    assert f" ago): Fatal Python error: Bus error; log: {log}" in text


@pytest.mark.parametrize("verb", ["status", "verify"])
def test_it_loads_nothing_heavy(verb):
    heavy = "torch transformers ray pandas numpy zarr pyarrow"
    check = f"import sys, launch.{verb}; print([name for name in {heavy.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
