"""`--plan` against what the same command then does."""

from __future__ import annotations

import dataclasses
import re
import time

import pytest
import torch
from rich.console import Console

from jobs.analyze_job import AnalyzeJob
from jobs.extract_job import ExtractJob
from jobs.judge_job import JudgeJob
from jobs.worker import WorkerOptions, run_worker
from launch import extract
from launch.durations import duration
from launch.estimate import estimate
from storage_layouts.errors import IncompleteError, InputError
from storage_layouts.runs import RunFolder
from tests import synthetic_run
from tests.conftest import WORDS

LOGS = ("run.json", "plan.json", "receipts", "attempts", "heartbeats", "claims", "failures")


def estimated(job, workers=1, rate_of=None):
    return estimate(job, workers, "cpu", rate_of, Console(quiet=True))


def planned(job):
    run = job.open_run()
    job.plan(run, lambda message: None)
    return run


def compute(job, shards=10**9):
    """Compute some shards of a run, as a worker does; returns the run."""
    run = planned(job)
    run_worker(run.path, WorkerOptions("cpu"), 0, 1, stop=lambda: len(run.done()) >= shards)
    return run


def data_bytes(run):
    files = [p for p in run.path.rglob("*") if p.is_file() and p.relative_to(run.path).parts[0] not in LOGS]
    return sum(p.stat().st_size for p in files)


def no_worker(self, run, device):
    raise AssertionError("loaded a model for nothing")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[:4]))
    return path


@pytest.fixture
def job(tiny_llm_folder, corpus, tmp_path):
    return ExtractJob(str(tiny_llm_folder), (corpus,), tmp_path / "store.zarr", per_token=40, rows_per_shard=128)


@pytest.mark.parametrize("rows_per_shard", [128, 2048])
def test_the_estimate_of_extract_is_what_extract_then_writes(job, tmp_path, rows_per_shard):
    job = dataclasses.replace(job, rows_per_shard=rows_per_shard)
    threads = torch.get_num_threads()
    found = estimated(job, workers=3)
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == threads
    run = compute(job)
    assert run.is_complete()
    plan = run.require_plan()
    assert (found.items, found.items_per_shard, found.shards) == (plan.items, rows_per_shard, plan.shard_count)
    assert (found.missing, found.unit, found.workers) == (plan.shard_count, "row", min(3, plan.shard_count))
    assert found.bytes == pytest.approx(data_bytes(run), rel=0.01)
    assert found.source.startswith("probed on cpu of ")
    assert 0 < found.seconds <= found.worker_seconds < 60


def test_the_flag_prints_a_table_and_writes_nothing(job, corpus, tmp_path, capsys, monkeypatch):
    open_worker = ExtractJob.open_worker

    def open_slowly(self, run, device):
        time.sleep(1)
        return open_worker(self, run, device)

    monkeypatch.setattr(ExtractJob, "open_worker", open_slowly)
    flags = ["--model", job.model, "--corpus", str(corpus), "--out", str(job.out), "--plan", "--device", "cpu"]
    assert extract.main(flags) == 0
    words = capsys.readouterr().out
    assert "nothing was submitted" in words
    assert "probed on cpu of" in words
    assert 1 <= float(re.search(r"loading +│ ([\d.]+) s for each worker, before its first shard", words)[1]) < 60
    assert list(tmp_path.iterdir()) == []


def test_finished_shards_give_the_rate_and_are_not_counted_again(job, tmp_path, monkeypatch):
    run = compute(job, shards=2)
    listing = sorted(job.out.rglob("*"))
    monkeypatch.setattr(ExtractJob, "open_worker", no_worker)
    lines = [line for line in run.attempts_log() if line["event"] == "finished"]
    items_per_second = 256 / sum(line["seconds"] for line in lines)
    for found in (estimated(job), estimated(dataclasses.replace(job, out=tmp_path / "new"), rate_of=job.out)):
        left = run.require_plan().items - 256 * (found.out == job.out)
        assert found.missing == run.require_plan().shard_count - 2 * (found.out == job.out)
        assert found.worker_seconds == pytest.approx(left / items_per_second, rel=1e-6)
        assert "2 shards by 1 worker" in found.source
        assert found.opening_seconds is None
    assert sorted(job.out.rglob("*")) == listing


def test_what_the_command_would_refuse_is_refused(job, tmp_path):
    run = planned(job)
    with pytest.raises(InputError, match="another run"):
        estimated(dataclasses.replace(job, seed=1))
    with pytest.raises(InputError, match="no worker has finished a shard"):
        estimated(job, rate_of=run.path)
    other = RunFolder.create(tmp_path / "other", "judge", {}, {"results": {"path": "r", "run_id": "0"}})
    with pytest.raises(InputError, match="a run of the stage 'judge', expected 'extract'"):
        estimated(job, rate_of=other.path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(InputError, match="not empty"):
        estimated(dataclasses.replace(job, out=tmp_path / "full"))


def test_a_judge_run_is_probed_and_needs_complete_results(tmp_path):
    results = synthetic_run.make_results(tmp_path)
    job = JudgeJob(results.path, tmp_path / "verdicts", patches=60, items_per_shard=16)
    found = estimated(job)
    assert not job.out.exists()
    run = compute(job)
    assert (found.items, found.shards) == (run.require_plan().items, run.require_plan().shard_count)
    assert found.bytes == pytest.approx(data_bytes(run), rel=0.2)
    results.run.receipt_path(0).unlink()
    with pytest.raises(IncompleteError, match=r"^nothing can be planned before .* is complete"):
        estimated(dataclasses.replace(job, out=tmp_path / "later"))
    with pytest.raises(IncompleteError, match=r"^nothing can be planned before .* is there"):
        estimated(dataclasses.replace(job, results=tmp_path / "nothing"))


def test_analyze_waits_with_its_probe_for_the_store(job, tiny_vlm_folder, tmp_path):
    synthetic_run.write_images(tmp_path / "images", "validation", 20)
    settings = {"model": str(tiny_vlm_folder), "images": tmp_path / "images", "out": tmp_path / "run"}
    store = planned(dataclasses.replace(job, per_token=2))
    found = estimated(AnalyzeJob(**settings, store=store.path, images_per_shard=8))
    assert (found.items, found.shards, found.seconds, found.bytes) == (20, 3, None, None)
    assert "--rate-of" in found.source
    analyze = AnalyzeJob(**settings, lenses="logit", images_per_shard=8)
    found = estimated(analyze)
    assert not analyze.out.exists()
    run = compute(analyze)
    assert found.source.endswith("2 shards of 8 images")
    assert 0 < found.seconds < 60
    assert found.bytes == pytest.approx(data_bytes(run), rel=0.2)


def test_durations():
    assert [duration(s) for s in (0.04, 9.99, 59.6, 61, 3600, 3661, 90000)] == [
        *("0.0 s", "10.0 s", "1 min", "1 min 1 s", "1 h", "1 h 1 min", "1 d 1 h"),
    ]
