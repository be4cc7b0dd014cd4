"""A training on SLURM and on Ray whose worker is killed in the first span, a middle one and the last."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.chaos import differences
from launch import train
from lenscore import shapes
from tests.clusters.ray_cluster import ray_test_cluster
from tests.clusters.slurm_runs import FORKED
from tests.counted_steps import CountedSteps
from tests.forked_workers import start
from tests.training_parts import save_shapes_parts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
BLOWS = {2: "worker", 7: "worker", 14: "worker"}
LIVES = [range(2), range(5), range(4, 11), range(10, 12)]
"""The steps that each worker computes, in spans of two: what the next one computes again is the span in hand."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    save_shapes_parts(folder)
    shapes.write_images(folder / "train", "train", 20)
    assert train.main([*flags_for(world=folder), "--out", str(folder / "undisturbed")]) == 0
    return folder


def flags_for(world: Path) -> list[str]:
    return [
        *("--llm", str(world / "llm"), "--vision", str(world / "vit"), "--vit-layers=-1,-3"),
        *("--data", str(world / "train"), "--steps", "12", "--steps-per-shard", "2", "--batch-size", "2"),
        *("--save-at", "1,6,11", "--precision", "float32", "--device", "cpu"),
    ]


def flags_of_run(world: Path, out: Path, *where: str) -> list[str]:
    return [*flags_for(world), "--out", str(out), "--rounds", "4", "--stale-after", "6", *where]


def test_on_slurm(slurm, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = CountedSteps(tmp_path / "hook", BLOWS)
    monkeypatch.setenv("PYTHONPATH", counted.environment["PYTHONPATH"])  # workers have that of the command
    where = ["--cluster", "slurm", "--memory", "900MB", "--gpus-per-node", "1", "--python", FORKED]
    assert train.main(flags_of_run(world, tmp_path / "run", *where)) == 0
    assert counted.computed == [step for life in LIVES for step in life]
    assert differences(tmp_path / "run", world / "undisturbed") == []


def test_on_ray(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = CountedSteps(tmp_path / "hook", BLOWS)
    monkeypatch.setenv("PYTHONPATH", counted.environment["PYTHONPATH"])  # workers have that of the node
    with ray_test_cluster(nodes=1) as cluster:
        flags = flags_of_run(world, tmp_path / "run", "--cluster", "ray", "--ray-address", cluster.address)
        log = tmp_path / "log"
        command = [sys.executable, "-m", "launch.cli", "train", *flags]
        with log.open("wb") as said:
            code = start(command, env=cluster.environment(), stderr=said, start_new_session=True).wait()
        assert code == 0, log.read_text()
    assert counted.computed == [step for life in LIVES for step in life]
    assert differences(tmp_path / "run", world / "undisturbed") == []
