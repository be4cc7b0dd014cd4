"""`lens status`: its words, --failed, --watch and --json, for one run and for folders of runs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest

from jobs.extract_job import ExtractJob
from jobs.worker import WorkerOptions, run_worker
from launch import cli, extract, status
from launch.run_status.reading import status_of
from tests.conftest import WORDS
from tests.status_runs import LONG_AGO, age, finish, look, make_run


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
    folders = ("layers", "outlier_dims", "rows")
    on_disk = sum(p.stat().st_size for folder in folders for p in (out / folder).rglob("*") if p.is_file())
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


@pytest.mark.parametrize("verb", ["status", "verify"])
def test_it_loads_nothing_heavy(verb):
    heavy = "torch transformers ray pandas numpy zarr pyarrow"
    check = f"import sys, launch.{verb}; print([name for name in {heavy.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
