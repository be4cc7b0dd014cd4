"""Logs of the workers: which worker tried which shard when, and which workers are alive. The logs are not data."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from storage_layouts.appending import append_lines
from storage_layouts.fields import COUNT, NUMBER, TEXT, check_fields, optional
from storage_layouts.files import make_folder, write_atomic
from storage_layouts.machine_errors import unless_removed, writing
from storage_layouts.processes import is_gone, this_process
from storage_layouts.shards import Shard

_BEAT = {"worker": TEXT, "host": TEXT, "pid": COUNT, "time": NUMBER} | {
    **dict.fromkeys(("machine", "born", "role", "log", "device", "gpu"), optional(TEXT)),
    **{"shard": optional(COUNT), "stale_after": optional(NUMBER)},
}


def _file_name(worker: str, suffix: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", worker):
        raise ValueError(f"worker name {worker!r}: use letters, digits, '.', '_' and '-'")
    return worker + suffix


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps({**content, "time": time.time()}, sort_keys=True).encode() + b"\n"


class WorkerLog:
    """The log of one worker, ``attempts/<worker>.jsonl``; only this worker appends to it.

    A line is a dict with ``event`` (of a shard: started, finished, failed; of the worker: refused, broken), ``shard``
    (index or null), ``worker``, ``host``, ``pid``, ``device``, ``log`` (path of the worker's output, or ""), ``time``
    (Unix seconds of the worker's clock); ``seconds``, ``items``, ``bytes``, ``traceback`` and ``message`` where they
    apply.
    """

    def __init__(self, folder: Path, worker: str, log: str = "", device: str = "") -> None:
        self.path = folder / _file_name(worker, ".jsonl")
        self.worker, self.log = worker, log
        host, pid = socket.gethostname(), os.getpid()
        self._common = {"worker": worker, "host": host, "pid": pid, "device": device, "log": log}
        make_folder(folder)
        # A new line must not join a line that a kill cut off.
        with contextlib.suppress(FileNotFoundError):
            if self.path.read_bytes()[-1:] not in (b"", b"\n"):
                self._append(b"\n")

    def _append(self, line: bytes) -> None:
        # One write per line, so that readers see whole lines.
        with writing(self.path):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                append_lines(descriptor, line)
            finally:
                os.close(descriptor)

    def _write(self, event: str, shard: Shard | int | None, **more: Any) -> None:
        index = shard.index if isinstance(shard, Shard) else shard
        self._append(_line({**self._common, "event": event, "shard": index, **more}))

    def started(self, shard: Shard | int) -> None:
        """Log that the work on a shard begins."""
        self._write("started", shard)

    def finished(self, shard: Shard | int, seconds: float, items: int = 0, size: int = 0) -> None:
        """Log that a shard is done (its receipt is on the disk), with its number of items and bytes of data."""
        self._write("finished", shard, seconds=round(seconds, 3), items=items, bytes=size)

    def failed(self, shard: Shard | int, traceback_text: str, seconds: float) -> None:
        """Log that a shard failed."""
        self._write("failed", shard, traceback=traceback_text, seconds=round(seconds, 3))

    def refused(self, message: str) -> None:
        """Log that the worker ends because of a user's mistake."""
        self._write("refused", None, message=message)

    def broken(self, traceback_text: str) -> None:
        """Log that the worker ends because of an error that does not depend on the shard."""
        self._write("broken", None, traceback=traceback_text)


def read_attempts(folder: Path, workers: str = "*") -> list[dict[str, Any]]:
    """All lines of the workers whose names match a pattern, in order of time, without lines that a kill cut off."""
    lines: list[dict[str, Any]] = []
    for path in sorted(folder.glob(f"{workers}.jsonl")):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                content = json.loads(line)
                if isinstance(content, dict) and NUMBER.fits(content.get("time")):
                    lines.append(content)
    return sorted(lines, key=lambda content: content["time"])


def write_heartbeat(folder: Path, worker: str, state: dict[str, Any]) -> None:
    """Write the heartbeat of a worker. Replaces the file atomically, without waiting for the disk."""
    path = folder / _file_name(worker, ".json")
    write_atomic(path, _line({**state, "worker": worker, **this_process()}), flush=False)


def remove_heartbeat(folder: Path, worker: str) -> None:
    """Remove the heartbeat of a worker that ends normally."""
    (folder / _file_name(worker, ".json")).unlink(missing_ok=True)


def read_heartbeats(folder: Path, workers: Collection[str] | None = None) -> list[dict[str, Any]]:
    """The last heartbeat of every worker, or of some, that has not ended normally, by worker name.

    Each has ``worker``, ``host``, ``pid``, ``time`` (Unix seconds of the worker's clock), ``modified`` (the same moment
    by the clock of the file system: compare it with a file written now, since clocks differ between machines), ``dead``
    (true if the worker ran on this machine and its process has ended) and the state given to `write_heartbeat`.
    CorruptError if a field is missing or of another kind.
    """
    beats: list[dict[str, Any]] = []
    found = folder.glob("[!.]*.json") if workers is None else (folder / f"{worker}.json" for worker in workers)
    for path in sorted(found):
        with contextlib.suppress(ValueError), unless_removed(path):  # invalid JSON: lost in a crash of the machine
            beat, modified = json.loads(path.read_bytes()), path.stat().st_mtime
            check_fields(path, beat, _BEAT, "delete it")
            beats.append({**beat, "modified": modified, "dead": is_gone(beat)})
    return beats
