"""A stage that can be made to take some seconds, what it makes undisturbed, and the SLURM to run it on."""

from __future__ import annotations

import contextlib
import os
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.extract_job import ExtractJob
from jobs.work import work
from storage_layouts.runs import RunFolder
from tests.clusters.slurm_cluster import SlurmCluster, missing_programs
from tests.conftest import WORDS, make_llama, make_tokenizer
from tests.forked_workers import ADDRESS, address


@dataclass(frozen=True)
class Stage:
    """An extraction of 44 shards; see `slow_shards`."""

    model: Path
    corpus: Path

    def job(self, out: Path, **changes: object) -> ExtractJob:
        settings = {"corpus": (self.corpus,), "per_token": 12, "rows_per_shard": 6, "layers": "5"} | changes
        return ExtractJob(model=str(self.model), out=out, **settings)

    def flags(self, out: Path) -> list[str]:
        """The same job on the command line."""
        where = ["--model", str(self.model), "--corpus", str(self.corpus), "--out", str(out)]
        return [*where, "--per-token", "12", "--rows-per-shard", "6", "--layers", "5"]

    def undisturbed(self, out: Path, **changes: object) -> Path:
        """What one worker in this process makes of it."""
        job = self.job(out, **changes)
        run = job.open_run()
        job.plan(run, lambda message: None)
        assert work(run, lambda: job.open_worker(run, "cpu"), "undisturbed").exit_code == 0
        run.require_complete()
        return out


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("stage")
    make_llama(layers=6).save_pretrained(folder / "llm")
    make_tokenizer().save_pretrained(folder / "llm")
    dice = random.Random(0)
    (folder / "corpus.txt").write_text("\n".join(" ".join(dice.choices(WORDS, k=30)) for _ in range(100)))
    return Stage(folder / "llm", folder / "corpus.txt")


@pytest.fixture
def slow_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of the stage takes every worker, wherever it runs, a quarter of a second in which it waits."""
    slow_workers(monkeypatch, seconds=0.25)


def slow_workers(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let workers that are started from now on wait before each shard."""
    hook = Path(__file__).with_name("slow_shards")
    patch.setenv("PYTHONPATH", f"{hook}{os.pathsep}{hook.parents[2]}")
    patch.setenv("LENSCORE_TEST_SHARD_SECONDS", str(seconds))


@pytest.fixture(scope="session")
def undisturbed(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nothing happened to."""
    return stage.undisturbed(tmp_path_factory.mktemp("undisturbed") / "store.zarr")


@pytest.fixture(scope="session")
def slurm_cluster() -> SlurmCluster:
    """One for all tests; see `slurm`."""
    if missing := missing_programs():
        words = f"no {', '.join(missing)} on this machine (Debian: apt-get install slurm-wlm munge)"
        pytest.fail(words) if os.environ.get("CLUSTER_TESTS") == "require" else pytest.skip(words)
    with SlurmCluster() as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    """The cluster with an empty queue and all nodes idle, as the one that this process and its children see."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster.conf))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv(ADDRESS, address())
    slurm_cluster.wait_for_nodes()
    yield slurm_cluster
    slurm_cluster.cancel_all()


def receipts(run: Path) -> int:
    """How many shards are done."""
    with contextlib.suppress(FileNotFoundError):
        return len(list((run / "receipts").glob("*.json")))
    return 0


def computed_twice(run: Path) -> int:
    """How many attempts were begun beyond one for each shard: what the blows cost."""
    begun = [line for line in RunFolder.open(run).attempts_log() if line["event"] == "started"]
    return len(begun) - len({line["shard"] for line in begun})
