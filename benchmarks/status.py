"""Time of `lens status` on a large run, and of reading the same bytes from the disk.

    python -m benchmarks.status --shards 100000 --workers 64

Builds a temporary run folder: every shard has a receipt except the last ones, which the workers compute now; each
shard has two lines in the log of its worker (started, finished), and every thousandth has failed once. The limit is one
process that lists the receipts and reads the bytes of plan, worker logs, heartbeats and failures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import interleaved, timing_table
from storage_layouts.attempts import write_heartbeat
from storage_layouts.files import FileDigest, json_bytes
from storage_layouts.run_identity import plan_id, run_content
from storage_layouts.shards import Plan, Receipt, plan_to_json, receipt_to_json, shard_name

COMMANDS = {"lens status RUN": (), "lens status RUN --json": ("--json",)}
LIMIT = "list and read the same bytes (the limit)"
ROWS = 8192
SECONDS = 20.0


def build_run(path: Path, shards: int, workers: int) -> None:
    """Write a nearly complete run of the stage extract in the real formats, without fsync."""
    for folder in ("receipts", "attempts", "heartbeats", "failures"):
        (path / folder).mkdir(parents=True)
    content = run_content("extract", {"rows_per_shard": ROWS}, {}, "lens extract")
    (path / "run.json").write_bytes(json_bytes(content))
    parts = {f"rows/part-{shard_name(i)}.parquet": FileDigest(90_000, f"{i:08x}") for i in range(shards)}
    plan = Plan(shards * ROWS, ROWS, parts)
    data = json_bytes({"run_id": content["run_id"], **plan_to_json(plan)})
    (path / "plan.json").write_bytes(data)
    identity = {"run_id": content["run_id"], "plan_id": plan_id(data)}
    data_file = {"layers/08/codes/c.0.0": FileDigest(33_554_432, "0a1b2c3d")}
    for shard in range(shards - workers):
        receipt = json_bytes({**identity, **receipt_to_json(Receipt(shard, ROWS, data_file))})
        (path / "receipts" / f"{shard_name(shard)}.json").write_bytes(receipt)
    for number in range(workers):
        _write_worker(path, number, range(number, shards, workers), shards - workers)


def _write_worker(path: Path, number: int, own: range, first_missing: int) -> None:
    name = f"node{number:03d}.cluster.example.org-{40_000 + number}-a1b2c3"
    log = str(path / "submissions" / "20261121-120000" / f"4711_{number}_0_log.out")
    who = {"worker": name, "host": name[:-13], "pid": 40_000 + number, "log": log, "device": "cuda:0"}
    now = time.time() - SECONDS * len(own)
    lines = []
    for shard in own:
        lines.append({**who, "event": "started", "shard": shard, "time": round(now, 3)})
        now += SECONDS
        if shard < first_missing:
            done = {"event": "finished", "seconds": SECONDS, "items": ROWS, "bytes": 33_554_432}
            lines.append({**who, **done, "shard": shard, "time": round(now, 3)})
        if shard % 1000 == 0:
            failure = {**who, "shard": shard, "tries": 1, "time": now, "traceback": "RuntimeError: once"}
            (path / "failures" / f"{shard_name(shard)}.json").write_text(json.dumps(failure))
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    (path / "attempts" / f"{name}.jsonl").write_text(text)
    state = {"shard": own[-1], "device": "cuda:0", "gpu": "0", "log": log, "stale_after": 600.0}
    write_heartbeat(path / "heartbeats", name, state)


def read_bare(path: Path) -> int:
    """List the receipts and read what status reads without parsing it; returns the number of bytes."""
    with os.scandir(path / "receipts") as entries:
        size = sum(len(entry.name) for entry in entries)
    files = [path / "run.json", path / "plan.json"]
    for folder in ("attempts", "heartbeats", "failures"):
        files += [Path(entry.path) for entry in os.scandir(path / folder)]
    return size + sum(len(file.read_bytes()) for file in files)


def command(run: Path, *flags: str) -> Callable[[], object]:
    """Returns a call that runs the command as a separate process."""
    words = [sys.executable, "-m", "launch.cli", "status", str(run), *flags]
    return lambda: subprocess.run(words, stdout=subprocess.DEVNULL, check=False)


def main() -> int:
    """Print a table; exit code 1 if even the fastest status took two seconds or longer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "store.zarr"
        build_run(run, arguments.shards, arguments.workers)
        size = read_bare(run)
        calls: dict[str, Callable[[], object]] = {
            LIMIT: lambda: read_bare(run),
            "start Python": lambda: subprocess.run([sys.executable, "-c", ""], check=False),
            **{name: command(run, *flags) for name, flags in COMMANDS.items()},
        }
        timings = interleaved(calls, arguments.repeats)
    print(f"{arguments.shards:,} shards, {arguments.workers} workers, {size / 1e6:.0f} MB to read")
    print(timing_table(timings, LIMIT))
    return int(max(min(timings[name].wall) for name in COMMANDS) >= 2)


if __name__ == "__main__":
    sys.exit(main())
