"""Failures: the shards whose computation raised, how often, and with what traceback.

    failures/00012.json    shard, tries, worker, host, time, traceback, log

A shard that was tried `MAX_TRIES` times is quarantined: nobody takes it again until the file is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from storage_layouts.files import unless_removed, write_atomic
from storage_layouts.shards import shard_name

MAX_TRIES = 3


def read_failure(folder: Path, shard: int) -> dict[str, Any]:
    """What is noted of one shard; empty if nothing is."""
    path = folder / f"{shard_name(shard)}.json"
    with contextlib.suppress(ValueError), unless_removed(path):
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found
    return {}


def read_failures(folder: Path) -> dict[int, dict[str, Any]]:
    """The failures by shard; a shard that was finished later is still among them."""
    found: dict[int, dict[str, Any]] = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            stem = Path(entry.path).stem
            if entry.name.endswith(".json") and stem.isdecimal() and (failure := read_failure(folder, int(stem))):
                found[int(stem)] = failure
    return found


def write_failure(folder: Path, shard: int, tries: int, worker: str, traceback_text: str, log: str) -> None:
    """Note that a shard failed for the `tries`-th time."""
    content = {
        "shard": shard,
        "tries": tries,
        "worker": worker,
        "host": socket.gethostname(),
        "time": time.time(),  # not rounded: it says which of two failures came last
        "traceback": traceback_text,
        "log": log,
    }
    write_atomic(folder / f"{shard_name(shard)}.json", json.dumps(content, sort_keys=True, indent=1).encode() + b"\n")


def remove_failures(folder: Path) -> int:
    """Take the failed shards up again, as if they had never been tried; returns how many."""
    failures = read_failures(folder)
    for shard in failures:
        (folder / f"{shard_name(shard)}.json").unlink(missing_ok=True)
    return len(failures)
