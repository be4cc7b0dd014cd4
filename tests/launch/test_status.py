"""The status of runs in every state, against states that were made by hand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from launch.run_status.reading import status_of
from tests.status_runs import LONG_AGO, finish, look, make_run


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
