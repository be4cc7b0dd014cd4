"""A training on SLURM and on Ray whose worker is killed in the first span, a middle one and the last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.chaos import differences
from launch import train
from lenscore import shapes
from tests.clusters.ray_cluster import RayTestCluster, ray_test_cluster
from tests.counted_steps import CountedSteps
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


def command(world: Path, out: Path, *where: str) -> list[str]:
    flags = [*flags_for(world), "--out", str(out), "--rounds", "4", "--stale-after", "6"]
    return [sys.executable, "-m", "launch.cli", "train", *flags, *where]


def test_on_slurm(slurm, world: Path, tmp_path: Path) -> None:
    counted = CountedSteps(tmp_path / "hook", BLOWS)
    where = ["--cluster", "slurm", "--memory", "900MB", "--gpus-per-node", "1"]
    subprocess.run(command(world, tmp_path / "run", *where), env=counted.environment, check=True)
    assert counted.computed == [step for life in LIVES for step in life]
    assert differences(tmp_path / "run", world / "undisturbed") == []


def test_on_ray(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = CountedSteps(tmp_path / "hook", BLOWS)
    monkeypatch.setenv("PYTHONPATH", counted.environment["PYTHONPATH"])  # workers have that of the node
    with ray_test_cluster() as cluster:
        assert isinstance(cluster, RayTestCluster)
        where = ["--cluster", "ray", "--ray-address", cluster.address]
        subprocess.run(command(world, tmp_path / "run", *where), env=cluster.environment(), check=True)
    assert counted.computed == [step for life in LIVES for step in life]
    assert differences(tmp_path / "run", world / "undisturbed") == []
