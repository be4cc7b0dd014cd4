"""Failures: the shards whose computation raised, how often, and with what traceback.

    failures/00012.json    shard, tries, worker, host, time, traceback, log

A shard that failed `MAX_TRIES` times is quarantined: no worker takes it until the file is removed.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any

from storage_layouts.fields import COUNT, NUMBER, SIZE, TEXT, check_fields, optional
from storage_layouts.files import write_atomic
from storage_layouts.machine_errors import unless_removed
from storage_layouts.shards import listed_shards, shard_name

MAX_TRIES = 3
_FIELDS = {"shard": COUNT, "tries": SIZE, "time": optional(NUMBER)} | dict.fromkeys(
    ("worker", "host", "traceback", "log"), optional(TEXT)
)


def read_failure(folder: Path, shard: int) -> dict[str, Any]:
    """The recorded failure of a shard; {} if there is none. CorruptError if a field is missing or of another kind."""
    path = folder / f"{shard_name(shard)}.json"
    with contextlib.suppress(ValueError), unless_removed(path):
        found: dict[str, Any] = json.loads(path.read_bytes())
        check_fields(path, found, _FIELDS, "delete it and repeat the command")
        return found
    return {}


def read_failures(folder: Path) -> dict[int, dict[str, Any]]:
    """The failures by shard; a shard that was finished later is still among them."""
    return {shard: failure for shard in sorted(listed_shards(folder)) if (failure := read_failure(folder, shard))}


def write_failure(folder: Path, shard: int, tries: int, worker: str, traceback_text: str, log: str) -> None:
    """Record that a shard failed for the `tries`-th time."""
    content = {
        "shard": shard,
        "tries": tries,
        "worker": worker,
        "host": socket.gethostname(),
        "time": time.time(),  # not rounded, so that failures can be ordered
        "traceback": traceback_text,
        "log": log,
    }
    write_atomic(folder / f"{shard_name(shard)}.json", json.dumps(content, sort_keys=True, indent=1).encode() + b"\n")


def remove_failures(folder: Path) -> int:
    """Remove all recorded failures, so that the shards are tried again; returns how many."""
    shards = listed_shards(folder)
    for shard in shards:
        (folder / f"{shard_name(shard)}.json").unlink(missing_ok=True)
    return len(shards)
