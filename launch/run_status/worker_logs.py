"""Sums over the worker logs of a run: items, bytes, seconds, and the last error."""

from __future__ import annotations

import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from storage_layouts.errors import CorruptError
from storage_layouts.fields import COUNT, NUMBER, TEXT, check_fields, optional
from storage_layouts.runs import RunFolder
from storage_layouts.shards import Plan

ERRORS = ("failed", "broken", "refused")
_LINE = {"event": TEXT, "worker": TEXT, "time": NUMBER, "shard": optional(COUNT)} | dict.fromkeys(
    ("device", "log", "traceback", "message"), optional(TEXT)
)
_SPENT = {"shard": COUNT, "seconds": NUMBER, "items": optional(COUNT), "bytes": optional(COUNT)}
_OF_EVENT = {"started": {"shard": COUNT}, "finished": _SPENT, "failed": _SPENT}
_STARTED = b'"event": "started"'


class Finished(NamedTuple):
    """A shard that a worker finished; a shard that two workers computed is there twice."""

    shard: int
    worker: str
    time: float
    """Of its end: Unix seconds of the worker's clock."""
    seconds: float
    items: int
    bytes: int | None
    """None in the logs of old versions."""


@dataclass
class WorkerLogs:
    """The contents of the files of attempts/.

    Attributes:
        finished: attempts, worker by worker, each in order of time.
        spent: seconds of finished and failed attempts, by device ("cpu", "cuda:0", "" if unknown).
        begun: shard and start of an attempt without an end, by worker: being computed, or lost with its worker.
        last_error: the line of the last failed attempt or worker.
        changed: time of the last change of a worker log, by the clock of the file system; 0 without any.

    """

    finished: list[Finished] = field(default_factory=list)
    spent: Counter[str] = field(default_factory=Counter)
    begun: dict[str, tuple[int, float]] = field(default_factory=dict)
    last_error: dict[str, Any] | None = None
    changed: float = 0.0

    @property
    def workers(self) -> set[str]:
        """Names of the workers that finished a shard."""
        return {attempt.worker for attempt in self.finished}

    def worker_rate(self, workers: Iterable[str], recent: int | None = None) -> float | None:
        """Returns items per second of one worker: the mean over the given workers that finished a shard.

        With ``recent``, only this number of last shards of each worker counts.
        """
        of_worker: defaultdict[str, list[Finished]] = defaultdict(list)
        for attempt in self.finished:
            of_worker[attempt.worker].append(attempt)
        rates = []
        for worker in workers:
            attempts = of_worker.get(worker, [])[-recent if recent else None :]
            seconds = sum(attempt.seconds for attempt in attempts)
            if seconds > 0:
                rates.append(sum(attempt.items for attempt in attempts) / seconds)
        return sum(rates) / len(rates) if rates else None

    def overall_rate(self) -> float | None:
        """Returns items per second of all workers together, over the time in which at least one of them computed."""
        busy, until = 0.0, float("-inf")
        for began, ended in sorted((attempt.time - attempt.seconds, attempt.time) for attempt in self.finished):
            busy += max(0.0, ended - max(began, until))
            until = max(until, ended)
        items = {attempt.shard: attempt.items for attempt in self.finished}
        return sum(items.values()) / busy if busy > 0 else None


def read_worker_logs(run: RunFolder, plan: Plan | None, devices: Mapping[str, str] | None = None) -> WorkerLogs:
    """Read attempts/*.jsonl of a run, without incomplete lines.

    Args:
        run: the run.
        plan: its plan; its sizes of shards complete logs without them.
        devices: the devices of the workers by name, for logs without them.

    """
    worker_logs, devices = WorkerLogs(), devices or {}
    for path in sorted((run.path / "attempts").glob("*.jsonl")):
        with contextlib.suppress(FileNotFoundError):
            worker_logs.changed = max(worker_logs.changed, path.stat().st_mtime)
            for line in _lines(path.read_bytes()):
                # Skip lines of another version or a damaged disk, and show the rest.
                with contextlib.suppress(CorruptError, IndexError):
                    _add(worker_logs, line, plan, devices)
    return worker_logs


def _lines(data: bytes) -> list[Any]:
    lines = data.splitlines()
    # A start matters only in the last line; skipping the others halves the time.
    lines = [line for line in lines[:-1] if line and _STARTED not in line] + lines[-1:]
    try:
        return json.loads(b"[" + b",".join(lines) + b"]")  # three times as fast as line by line
    except ValueError:
        whole = []
        for line in lines:
            with contextlib.suppress(ValueError):
                whole.append(json.loads(line))
        return whole


def _add(worker_logs: WorkerLogs, line: dict[str, Any], plan: Plan | None, devices: Mapping[str, str]) -> None:
    check_fields("", line, _LINE)
    event, worker = line["event"], line["worker"]
    check_fields("", line, _OF_EVENT.get(event, {}))
    if event == "started":
        worker_logs.begun[worker] = (line["shard"], line["time"])
        return
    worker_logs.begun.pop(worker, None)
    if event in ("finished", "failed"):
        worker_logs.spent[line.get("device") or devices.get(worker, "")] += line["seconds"]
    if event == "finished":
        items = line.get("items") or (plan.shard(line["shard"]).items if plan else 0)
        worker_logs.finished.append(
            Finished(line["shard"], worker, line["time"], line["seconds"], items, line.get("bytes"))
        )
    elif event in ERRORS and (worker_logs.last_error is None or line["time"] >= worker_logs.last_error["time"]):
        worker_logs.last_error = line
