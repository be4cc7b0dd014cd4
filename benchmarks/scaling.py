"""Time and memory as functions of the number of phrases, rows, shards and workers.

    python -m benchmarks.scaling                       # minutes
    python -m benchmarks.scaling --most-phrases 3000000 --most-rows 10000000 --most-shards 100000

Everything is written in the real formats into a temporary folder (about 120 bytes a row) and removed. Each line of a
table is measured in a separate process; peak memory includes Python and its libraries, with torch 300 to 500 MiB.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import in_own_process, machine, markdown_table
from benchmarks.phrases import save_model, write_phrases
from jobs.extract_job import ExtractJob
from storage_layouts.runs import RunFolder

TASKS = "benchmarks.scaling_tasks"


def decades(first: int, last: int) -> list[int]:
    """Returns first, ten times first, ..., and last."""
    numbers = []
    while first < last:
        numbers.append(first)
        first *= 10
    return [*numbers, last]


def planned_run(folder: Path, phrases: int, rows_per_shard: int, name: str) -> RunFolder:
    """Returns a planned extraction of the first phrases."""
    job = ExtractJob(
        str(folder / "model"), (folder / "corpus.txt",), folder / name, limit=phrases, rows_per_shard=rows_per_shard
    )
    run = job.open_run()
    job.plan(run, lambda message: None)
    return run


def measure_phrases(folder: Path, most: int, most_worked: int) -> str:
    """Measure planning, and a worker that computes all shards, for growing corpora."""
    rows: list[list[object]] = []
    for count in decades(10_000, most):
        found = in_own_process(TASKS, "plan", str(folder), str(count))
        line = [count, found["rows"], found["seconds"], found["processor"], found["peak_mib"], found["table_mib"]]
        if count <= most_worked:
            run = planned_run(folder, count, 8192, f"worked-{count}")
            worked = in_own_process(TASKS, "work", str(run.path), "0")
            line += [worked["seconds"], worked["peak_mib"], worked["table_mib"]]
            shutil.rmtree(run.path)
        rows.append(line + ["-"] * (9 - len(line)))
    header = ["phrases", "rows", "planning s", "processor s", "peak MiB", "of which tables"]
    return markdown_table([*header, "worker s", "peak MiB", "tables on disk MiB"], rows)


def measure_rows(folder: Path, most: int) -> str:
    """Measure writing, opening and reading of stores of one layer."""
    names = ("write", "open", "read_layer", "read_table", "bytes_a_row", "wrote_mib", "peak_mib")
    rows = [[count, *map(_task(folder, "store", count).get, names)] for count in decades(10_000, most)]
    header = ["rows", "write s", "open s", "read layer s", "read row table s", "bytes a row"]
    return markdown_table([*header, "peak MiB of writing", "peak MiB"], rows)


def measure_shards(folder: Path, most: int) -> str:
    """Measure the work loop without computation for growing numbers of shards."""
    rows = []
    for count in decades(10, most):
        found = _task(folder, "loop", count)
        rows.append([count, found["first"], found["each"] * 1000, found["whole"], found["peak_mib"]])
    return markdown_table(["shards", "s until the first", "ms each", "s for the last ones", "peak MiB"], rows)


def _task(folder: Path, name: str, count: int) -> dict[str, Any]:
    """Returns what a task of `scaling_tasks` measures in a temporary subfolder."""
    with tempfile.TemporaryDirectory(dir=folder) as parent:
        return in_own_process(TASKS, name, f"{parent}/{name}", str(count))


def measure_workers(folder: Path, most: int, phrases: int) -> str:
    """Measure an extraction with 1, 2, ... processes of one torch thread each."""
    planned = planned_run(folder, phrases, 1024, "planned")
    rows: list[list[object]] = []
    alone = 0.0
    for count in range(1, most + 1):
        path = folder / f"workers-{count}"
        shutil.copytree(planned.path, path)
        words = [sys.executable, "-m", "jobs.worker", str(path), "--device", "cpu"]
        began = time.perf_counter()
        processes = [subprocess.Popen([*words, "--part", f"{i}/{count}"]) for i in range(count)]
        codes = [process.wait() for process in processes]
        assert not any(codes), codes
        wall = time.perf_counter() - began
        events = RunFolder.open(path).attempts_log()
        finished = [event for event in events if event["event"] == "finished"]
        span = max(event["time"] for event in finished) - min(e["time"] for e in events if e["event"] == "started")
        rate = planned.require_plan().items / span
        alone = alone or rate
        rows.append([count, len(finished), wall, span, rate, rate / alone])
        shutil.rmtree(path)
    return markdown_table(["workers", "shards", "s in all", "s of work", "rows/s", "x one worker"], rows)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["phrases", "rows", "shards", "workers"], default=[])
    parser.add_argument("--most-phrases", type=int, default=1_000_000)
    parser.add_argument("--most-worked", type=int, default=1_000_000, help="phrases that a worker computes too")
    parser.add_argument("--most-rows", type=int, default=1_000_000)
    parser.add_argument("--most-shards", type=int, default=100_000)
    parser.add_argument("--most-workers", type=int, default=2)
    parser.add_argument("--worker-phrases", type=int, default=50_000)
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model")
        write_phrases(folder / "corpus.txt", max(arguments.most_phrases, arguments.worker_phrases))
        tables = {
            "phrases": lambda: measure_phrases(folder, arguments.most_phrases, arguments.most_worked),
            "rows": lambda: measure_rows(folder, arguments.most_rows),
            "shards": lambda: measure_shards(folder, arguments.most_shards),
            "workers": lambda: measure_workers(folder, arguments.most_workers, arguments.worker_phrases),
        }
        for title in arguments.only or tables:
            print(f"\n### {title}\n\n{tables[title]()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
