"""A planning on real schedulers: killed, requeued, on a lost node, queued ahead; the store is that of one process."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from benchmarks.chaos import differences
from launch import extract, status
from launch.clusters.slurm_queue import queue_of
from lenscore.contexts import corpus_pieces
from storage_layouts.runs import PLANNING, RunFolder
from tests.clusters.conftest import computed_twice, receipts
from tests.clusters.ray_cluster import ray_test_cluster, wait_for
from tests.clusters.slurm_runs import at_work, run_on_slurm
from tests.forked_workers import start

PATIENCE = 120.0
PIECE_BYTES = 300
"""The corpus of the stage has some 50 pieces then."""


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(corpus_pieces, "PIECE_BYTES", PIECE_BYTES)


@pytest.fixture
def changes():
    """Of the job of the stage: a few large shards, for the subject is what comes before."""
    return {"rows_per_shard": 128}


@pytest.fixture
def undisturbed(stage, changes, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_pieces, "PIECE_BYTES", 2**30)
    run = stage.undisturbed(tmp_path / "undisturbed.zarr", **changes)
    monkeypatch.setattr(corpus_pieces, "PIECE_BYTES", PIECE_BYTES)
    return run


def test_on_slurm_workers_are_killed_and_requeued(slurm, stage, undisturbed, changes, slow_shards, tmp_path):
    out, seen = tmp_path / "store.zarr", []

    def blow(out, strike):
        planning = out / PLANNING
        for done in (4, 12):
            strike.when(lambda done=done: receipts(planning) >= done and at_work(planning), f"{done} parts")
            beat = at_work(planning)[0]
            os.kill(beat["pid"], signal.SIGKILL)
        seen.append(computed_twice(planning))
        assert RunFolder.open(out).plan is None

    outcome = run_on_slurm(stage.job(out, **changes), blow, workers=3)
    assert outcome.code == 0, outcome.words
    assert seen
    assert differences(out, undisturbed) == []
    assert not (out / PLANNING).exists()


@pytest.mark.slow
def test_on_slurm_a_lost_node_costs_no_part(slurm, stage, undisturbed, changes, slow_shards, tmp_path):
    out, lost = tmp_path / "store.zarr", []

    def blow(out, strike):
        planning = out / PLANNING
        strike.when(lambda: receipts(planning) >= 4 and at_work(planning), "four parts")
        running = next(entry for entry in queue_of(RunFolder.open(planning)) if entry.state == "RUNNING")
        lost.append(running.node)
        slurm.kill_node(running.node, tasks=True)

    try:
        outcome = run_on_slurm(stage.job(out, **changes), blow, workers=2)
        assert outcome.code == 0, outcome.words
        assert differences(out, undisturbed) == []
    finally:
        slurm.start_node(lost[0])
        slurm.wait_for_nodes()


def test_on_slurm_planning_and_extraction_are_queued_at_once(
    slurm, stage, undisturbed, changes, slow_shards, tmp_path, capsys
):
    out = tmp_path / "store.zarr"
    flags = [*stage.flags(out), "--rows-per-shard", "128", "--cluster", "slurm", "--workers", "2", "--device", "cpu"]
    flags += ["--gpus-per-node", "1", "--memory", "400MB"]
    assert extract.main([*flags, "--detach"]) == 0
    assert capsys.readouterr().err.count("submitted SLURM job") == 2
    wait_for(lambda: receipts(out / PLANNING) >= 3, PATIENCE, "three parts")
    assert status.main([str(out)]) == 1
    printed = capsys.readouterr().out
    assert f"planning {out / PLANNING}: running" in printed
    assert "parts/s" in printed
    wait_for(lambda: RunFolder.open(out).is_complete(), PATIENCE, "the store")
    assert extract.main(flags) == 0
    assert differences(out, undisturbed) == []
    assert not (out / PLANNING).exists()


@pytest.mark.slow
def test_on_ray_actors_and_a_node_are_lost(stage, undisturbed, tmp_path, slow_shards, monkeypatch):
    out = tmp_path / "store.zarr"
    with ray_test_cluster(dashboard=False) as cluster:
        code = f"from lenscore.contexts import corpus_pieces; corpus_pieces.PIECE_BYTES = {PIECE_BYTES}; "
        code += "from launch import extract; import sys; sys.exit(extract.main(sys.argv[1:]))"
        flags = [*stage.flags(out), "--rows-per-shard", "128", "--cluster", "ray", "--device", "cpu", "--workers", "2"]
        flags += ["--ray-address", cluster.address, "--stale-after", "6"]
        with (tmp_path / "said.txt").open("wb") as said:
            more = {"env": cluster.environment() | {"PYTHONPATH": os.environ["PYTHONPATH"]}, "stdout": said}
            command = start([sys.executable, "-c", code, *flags], stderr=said, start_new_session=True, **more)
            planning = out / PLANNING
            wait_for(lambda: receipts(planning) >= 4 and at_work(planning), PATIENCE, "four parts")
            os.kill(at_work(planning)[0]["pid"], signal.SIGKILL)
            done = receipts(planning)
            wait_for(lambda: receipts(planning) >= done + 4, PATIENCE, "four more parts")
            cluster.kill_node(cluster.nodes[1])
            assert RunFolder.open(out).plan is None
            assert command.wait(PATIENCE) == 0, (tmp_path / "said.txt").read_text()
    assert differences(out, undisturbed) == []
    assert not planning.exists()
