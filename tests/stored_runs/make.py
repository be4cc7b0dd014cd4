"""Make runs.tar.gz: small runs of every stage but train, some of them interrupted.

    python -m tests.stored_runs.make FILE

was run with the code of commit f83582c (2026-11-29). `tests/test_stored_runs.py` takes these runs up with the code of
now. The paths of its inputs are part of a run, so they are made and taken up in the folder `WHERE`; the model is
"world/shapes" in a Hub cache that `hub_cache` makes of the model of the shapes world.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lenscore import shapes
from tests.judge_runs import KEY, prices
from tests.judge_server import JudgeServer

WHERE = Path("/tmp/lenscore-stored-runs")
COMMIT = "5" * 40
EXTRACT = (
    "--model world/shapes --corpus corpus.txt --per-token 2 --layers 1,4 --rows-per-shard 32 --workers 1 --device cpu"
)
ANALYZE = (
    "--model world/shapes --images images/captions.csv --store store.zarr --layers 0,4 --top-k 3 --images-per-shard 1 "
    "--workers 1 --device cpu --no-self-test"
)
JUDGE = "--results results --judge truth --patches 8 --items-per-shard 2 --workers 1"

PAID = "--results results --judge openai:judge-1 --patches 2 --prices prices.yaml --max-cost 1 --workers 1"


@contextlib.contextmanager
def runs_folder() -> Iterator[Path]:
    """The folder of the runs, empty, for one process at a time; removed afterwards."""
    with WHERE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(WHERE, ignore_errors=True)
        WHERE.mkdir()
        try:
            yield WHERE
        finally:
            shutil.rmtree(WHERE)


@contextlib.contextmanager
def judge_server() -> Iterator[tuple[JudgeServer, dict[str, str]]]:
    """A paid judge that finds every patch to be a circle, and the environment of commands that ask it."""
    with JudgeServer(lambda text, urls: ["circle"], {}, seed=0, key=KEY) as server:
        yield server, {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.url}


def hub_cache(home: Path) -> dict[str, str]:
    """A Hub cache with the model of the shapes world; returns the environment of commands that read it."""
    folder = home / "hub" / "models--world--shapes"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for file in shapes.model_path().iterdir():
        (snapshot / file.name).symlink_to(file)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    return os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.getcwd()}


def lens(words: str, folder: Path, environment: dict[str, str]) -> None:
    """Run a command in a folder; it must complete."""
    command = [sys.executable, "-m", "launch.cli", *words.split()]
    subprocess.run(command, cwd=folder, env=environment, check=True, stderr=subprocess.DEVNULL)


def interrupt(run: Path, data: tuple[str, ...]) -> None:
    """Take the last shards away: their receipts, and their files."""
    receipts = sorted((run / "receipts").iterdir())
    for receipt in receipts[-max(1, len(receipts) // 3) :]:
        for pattern in data:
            for file in run.glob(pattern.format(shard=int(receipt.stem))):
                file.unlink()
        receipt.unlink()


def main() -> None:
    """Make the archive that is named first."""
    with tempfile.TemporaryDirectory() as name, runs_folder() as work:
        archive = Path(sys.argv[1]).resolve()
        environment = hub_cache(Path(name) / "home")
        lines = shapes.corpus_path().read_text().splitlines()[:60]
        (work / "corpus.txt").write_text("\n".join(lines) + "\n")
        shapes.write_images(work / "images", "test", 4)
        prices(work)
        lens(f"extract {EXTRACT} --out store.zarr", work, environment)
        lens(f"analyze {ANALYZE} --out results", work, environment)
        lens(f"judge {JUDGE} --out verdicts", work, environment)
        lens("report verdicts --out report", work, environment)
        with judge_server() as (server, key):
            lens(f"judge {PAID} --out paid", work, environment | key)
            assert len(server.arrivals) > 10
        for whole, part, data in (
            ("store.zarr", "part.zarr", ("layers/*/c.0.{shard}", "layers/*/c.0.{shard}.0")),
            ("results", "results-part", ("*/part-{shard:05d}.parquet",)),
            ("verdicts", "verdicts-part", ("verdicts/part-{shard:05d}.jsonl",)),
        ):
            shutil.copytree(work / whole, work / part)
            interrupt(work / part, data)
        # What a queued SLURM job holds; imported here, for it needs submitit.
        from jobs.worker import WorkerOptions
        from launch.clusters.slurm_element import Element

        element = Element(Path("store.zarr"), WorkerOptions("cpu"), 0, 2, 60, 90)
        (work / "element.pkl").write_bytes(pickle.dumps(element))
        summary = (work / "report" / "tables" / "summary.csv").read_bytes()
        shutil.rmtree(work / "report")
        (work / "summary.csv").write_bytes(summary)
        with tarfile.open(archive, "w:gz") as file:
            file.add(work, ".")


if __name__ == "__main__":
    main()
