"""Searches of a store that is larger than --index-memory on real schedulers, killed in the middle: the same bytes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.chaos import differences
from jobs.analyze_job import AnalyzeJob
from storage_layouts.runs import RunFolder
from tests.clusters.conftest import computed_twice, slow_workers
from tests.clusters.ray_cluster import ray_test_cluster, wait_for
from tests.clusters.slurm_runs import run_on_slurm
from tests.forked_workers import start
from tests.jobs.test_index_memory import LIMIT, complete, store_and_pictures

PATIENCE = 60.0
MEMORY = f"{LIMIT // 1024}KB"


@pytest.fixture(scope="module")
def inputs(tiny_llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_and_pictures(tmp_path_factory.mktemp("inputs"), tiny_llm_folder, pictures=6)


@pytest.fixture(scope="module")
def job(inputs: Path, tiny_vlm_folder: Path) -> Callable[[Path], AnalyzeJob]:
    return lambda out: AnalyzeJob(str(tiny_vlm_folder), inputs / "images", out, inputs / "s.zarr", images_per_shard=2)


@pytest.fixture(scope="module")
def undisturbed(job: Callable[[Path], AnalyzeJob], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one worker makes with the whole store in memory."""
    return complete(job(tmp_path_factory.mktemp("undisturbed") / "run"))


@pytest.fixture
def searching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """The processes that are in the middle of a search, which takes them a second in which they wait."""
    slow_workers(monkeypatch, seconds=1.0)
    folder = tmp_path / "searching"
    folder.mkdir()
    monkeypatch.setenv("LENSCORE_TEST_SEARCHES", str(folder))
    return lambda: [int(path.name) for path in folder.iterdir()]


def begun_by(run: Path, pid: int) -> set[int]:
    return {line["shard"] for line in RunFolder.open(run).attempts_log() if line["pid"] == pid}


def test_on_slurm_a_worker_is_killed_while_it_searches(slurm, job, undisturbed, searching, tmp_path):
    out, killed = tmp_path / "run", []

    def blow(out, strike):
        killed.append(strike.when(searching, "a search")[0])
        os.kill(killed[0], signal.SIGKILL)

    outcome = run_on_slurm(job(out), blow, workers=2, index_memory=MEMORY)
    assert outcome.code == 0, outcome.words
    assert begun_by(out, killed[0])
    assert computed_twice(out) >= 1
    assert differences(out, undisturbed) == []


@pytest.mark.slow
def test_on_ray_a_worker_is_killed_while_it_searches(job, undisturbed, searching, tmp_path):
    out, said = tmp_path / "run", tmp_path / "said.txt"
    settings = job(out)
    flags = ["--model", settings.model, "--images", settings.images, "--store", settings.store, "--out", out]
    flags += ["--images-per-shard", "2", "--index-memory", MEMORY, "--device", "cpu", "--workers", "2"]
    with ray_test_cluster(nodes=1) as cluster, said.open("wb") as stream:
        line = [sys.executable, "-m", "launch.cli", "analyze", *map(str, flags), "--cluster", "ray"]
        more = {"env": cluster.environment(), "stdout": stream, "stderr": stream, "start_new_session": True}
        command = start([*line, "--ray-address", cluster.address, "--stale-after", "6"], **more)
        wait_for(searching, PATIENCE, "a search")
        killed = searching()[0]
        os.kill(killed, signal.SIGKILL)
        assert command.wait(PATIENCE) == 0, said.read_text()
    assert begun_by(out, killed)
    assert computed_twice(out) >= 1
    assert differences(out, undisturbed) == []
