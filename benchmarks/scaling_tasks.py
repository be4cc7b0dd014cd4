"""One measurement of `scaling.py` in a process of its own, so that its peak memory is its own too.

    python -m benchmarks.scaling_tasks {plan,work,store,loop} FOLDER NUMBER

Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.measuring import peak_mib
from jobs.base import Progress, untold
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.files import FileDigest, json_bytes, make_folder
from storage_layouts.quantize import Encoded
from storage_layouts.row_tables import write_rows_part, write_sentences
from storage_layouts.runs import Plan, Receipt, RunFolder, Shard
from storage_layouts.shards import receipt_to_json, shard_name
from storage_layouts.store_layout import StoreLayout

DIM = 64
MOST_SHARDS_OF_A_STORE = 100
LEFT_TO_DO = 20


def plan(folder: Path, phrases: int) -> dict[str, float]:
    """Choose the rows of the first so many phrases of FOLDER/corpus.txt for the model FOLDER/model."""
    from lenscore.contexts.context_table import RowChoice, choose_rows
    from lenscore.contexts.corpus import read_corpus
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
    """Be the only worker of a planned extraction."""
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
    """Write a store of one layer and so many rows in the real format, open it, read the layer and the row table."""
    size = max(1024, -(-rows // MOST_SHARDS_OF_A_STORE // 1024) * 1024)
    layout = StoreLayout(layers=(1,), rows=rows, dim=DIM, encoding="float8_e4m3fn", rows_per_shard=size)
    run = RunFolder.create(folder, "extract", {"rows": rows}, {})
    began = time.perf_counter()
    files = EmbeddingStore.write_skeleton(folder, layout)
    for shard in Plan(rows, size).shards():
        name = f"rows/part-{shard.name}.parquet"
        files[name] = write_rows_part(folder / name, _row_table(shard))
    texts = pa.table({"sentence_id": pa.array([0], pa.int64()), "text": ["synthetic"]})
    files["sentences.parquet"] = write_sentences(folder / "sentences.parquet", texts)
    run.write_plan(rows, size, files, {})
    opened = EmbeddingStore.open(folder, allow_incomplete=True)
    opened.set_outlier_dims(1, range(layout.outlier_count))
    rng = np.random.default_rng(0)
    for shard in run.require_plan().shards():
        n = shard.items
        codes = rng.integers(0, 120, (n, DIM), dtype=np.uint8)
        outliers = np.ones((n, layout.outlier_count), np.float32)
        encoded = Encoded(codes, outliers, np.ones(n, np.float32), np.ones(n, np.float32))
        run.write_receipt(Receipt(shard.index, n, opened.write_rows(1, shard, encoded)))
    times = {"write": time.perf_counter() - began, "wrote_mib": peak_mib()}
    reading: dict[str, Callable[[EmbeddingStore], object]] = {
        "open": lambda _: EmbeddingStore.open(folder),
        "read_layer": lambda complete: complete.read_layer(1),
        "read_table": lambda complete: complete.row_table(["row", "token_id", "sentence_id"]),
    }
    complete = EmbeddingStore.open(folder)
    for name, read in reading.items():
        began = time.perf_counter()
        read(complete)
        times[name] = time.perf_counter() - began
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {**times, "bytes_a_row": disk / rows}


def _row_table(shard: Shard) -> pa.Table:
    rows = np.arange(shard.first, shard.first + shard.items, dtype=np.int64)
    token = (rows % 26_862).astype(np.int32)
    small = (rows % 7).astype(np.int32)
    return pa.table(
        {
            "row": rows,
            "token_id": token,
            "token": pa.array(token).cast(pa.string()),
            "sentence_id": np.zeros_like(rows),
            "position": small,
            "char_start": small,
            "char_end": small + 1,
        }
    )


def loop(folder: Path, shards: int) -> dict[str, float]:
    """What the work loop itself costs a shard: one worker does the last shards of a long run, and they are empty."""
    from jobs.work import work as work_loop

    run = RunFolder.create(folder, "extract", {"shards": shards}, {})
    run.write_plan(shards, 1, {}, {})
    identity = {"run_id": run.run_id, "plan_id": run.plan_id}
    make_folder(folder / "receipts")
    left = min(LEFT_TO_DO, shards)
    for index in range(shards - left):  # not flushed: only the loop below is measured
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
    """A worker with nothing to compute."""

    def __init__(self, stamps: list[float]) -> None:
        self._stamps = stamps

    def run(self, shard: Shard, progress: Progress = untold) -> Receipt:
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
