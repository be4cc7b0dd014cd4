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

from storage_layouts.fields import COUNT, NUMBER, SIZE, TEXT, check_fields, optional
from storage_layouts.files import write_atomic
from storage_layouts.machine_errors import unless_removed
from storage_layouts.shards import shard_name

MAX_TRIES = 3
_FIELDS = {"shard": COUNT, "tries": SIZE, "time": optional(NUMBER)} | dict.fromkeys(
    ("worker", "host", "traceback", "log"), optional(TEXT)
)


def read_failure(folder: Path, shard: int) -> dict[str, Any]:
    """What is noted of one shard; empty if nothing is. CorruptError if a field is missing or of another kind."""
    path = folder / f"{shard_name(shard)}.json"
    with contextlib.suppress(ValueError), unless_removed(path):
        found: dict[str, Any] = json.loads(path.read_bytes())
        check_fields(path, found, _FIELDS, "delete it and repeat the command")
        return found
    return {}


def read_failures(folder: Path) -> dict[int, dict[str, Any]]:
    """The failures by shard; a shard that was finished later is still among them."""
    return {shard: failure for shard in _shards(folder) if (failure := read_failure(folder, shard))}


def _shards(folder: Path) -> list[int]:
    """The shards of which something is noted."""
    with contextlib.suppress(FileNotFoundError):
        names = [entry.name for entry in os.scandir(folder)]
        return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdecimal())
    return []


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
    shards = _shards(folder)
    for shard in shards:
        (folder / f"{shard_name(shard)}.json").unlink(missing_ok=True)
    return len(shards)
