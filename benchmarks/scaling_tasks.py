"""One measurement of `scaling.py`; each runs in a separate process, whose peak memory is measured.

    python -m benchmarks.scaling_tasks {plan,work,store,loop} FOLDER NUMBER

Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import peak_mib, timed
from benchmarks.synthetic_store import LAYER, write_store
from jobs.base import Progress, no_progress
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.files import FileDigest, json_bytes, make_folder
from storage_layouts.runs import Receipt, RunFolder, Shard
from storage_layouts.shards import receipt_to_json, shard_name

DIM = 64
MOST_SHARDS_OF_A_STORE = 100
LEFT_TO_DO = 20


def plan(folder: Path, phrases: int) -> dict[str, float]:
    """Choose the rows of the first phrases of FOLDER/corpus.txt for the model FOLDER/model."""
    from lenscore.contexts.context_table import choose_rows
    from lenscore.contexts.corpus import read_corpus
    from lenscore.contexts.row_choice import RowChoice
    from lenscore.models.checkpoint import Checkpoint

    tokenizer = Checkpoint(folder / "model").tokenizer
    began = time.perf_counter(), time.process_time()
    table = choose_rows(lambda: read_corpus([folder / "corpus.txt"]), tokenizer, RowChoice(limit=phrases))
    return {
        "seconds": time.perf_counter() - began[0],
        "processor": time.process_time() - began[1],
        "rows": table.rows.num_rows,
        "table_mib": (table.rows.nbytes + table.sentences.nbytes) / 2**20,
    }


def work(run: Path, _: int) -> dict[str, float]:
    """Compute a planned extraction with one worker."""
    from jobs.worker import WorkerOptions, run_worker

    folder = RunFolder.open(run)
    began = time.perf_counter()
    report = run_worker(run, WorkerOptions("cpu"), 0, 1)
    assert report.exit_code == 0, report
    tables = [*run.glob("rows/*.parquet"), run / "sentences.parquet"]
    return {
        "seconds": time.perf_counter() - began,
        "rows": folder.require_plan().items,
        "table_mib": sum(path.stat().st_size for path in tables) / 2**20,
    }


def store(folder: Path, rows: int) -> dict[str, float]:
    """Write a store of one layer, open it, and read the layer and the row table."""
    size = max(1024, -(-rows // MOST_SHARDS_OF_A_STORE // 1024) * 1024)
    times = {"write": timed(lambda: write_store(folder, rows, DIM, size))[0], "wrote_mib": peak_mib()}
    complete = EmbeddingStore.open(folder)
    reading: dict[str, Callable[[], object]] = {
        "open": lambda: EmbeddingStore.open(folder),
        "read_layer": lambda: complete.read_layer(LAYER),
        "read_table": lambda: complete.row_table(["row", "token_id", "sentence_id"]),
    }
    times |= {name: timed(read)[0] for name, read in reading.items()}
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {**times, "bytes_a_row": disk / rows}


def loop(folder: Path, shards: int) -> dict[str, float]:
    """Measure the overhead of the work loop for a shard: one worker, the last shards of a long run, no computation."""
    from jobs.work import work as work_loop

    run = RunFolder.create(folder, "extract", {"shards": shards}, {})
    run.write_plan(shards, 1, {}, {})
    identity = {"run_id": run.run_id, "plan_id": run.plan_id}
    make_folder(folder / "receipts")
    left = min(LEFT_TO_DO, shards)
    for index in range(shards - left):  # not flushed, since only the loop below is measured
        data = json_bytes({**identity, **receipt_to_json(Receipt(index, 1, {"data": FileDigest(1, "00000000")}))})
        (folder / "receipts" / f"{shard_name(index)}.json").write_bytes(data)
    began = time.perf_counter()
    stamps: list[float] = []
    report = work_loop(run, lambda: _Nothing(stamps), "scaling")
    assert report.finished == left, report
    return {
        "first": stamps[0] - began,
        "each": (stamps[-1] - stamps[0]) / max(1, left - 1),
        "whole": time.perf_counter() - began,
    }


class _Nothing:
    """A worker that computes nothing."""

    def __init__(self, stamps: list[float]) -> None:
        self._stamps = stamps

    def run(self, shard: Shard, progress: Progress = no_progress) -> Receipt:
        self._stamps.append(time.perf_counter())
        return Receipt(shard.index, shard.items, {})


TASKS = {"plan": plan, "work": work, "store": store, "loop": loop}


def main() -> None:
    """Run one task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("number", type=int)
    arguments = parser.parse_args()
    found = TASKS[arguments.task](arguments.folder, arguments.number)
    print(json.dumps({**found, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
