"""What every stage has in common: a plan, shards, and a worker that turns shards into receipts.

A job is a frozen dataclass: all that defines the work, so the flags of its command and the `config` of its run
folder. Truth lives in the run folder. A worker may be killed anywhere: at most the shard in hand is lost.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol

from storage_layouts.errors import InputError
from storage_layouts.runs import Receipt, RunFolder, Shard

TRIES_PER_SHARD = 2
HEARTBEAT_SECONDS = 5.0


class Worker(Protocol):
    """Holds what is expensive to open (model, index) and computes one shard after the other."""

    def run(self, shard: Shard) -> Receipt:
        """Write the shard's data, fsynced, and return what was written. Doing it twice gives the same bytes."""
        ...


class Job(Protocol):
    """One stage with one configuration."""

    stage: ClassVar[str]
    needs_device: ClassVar[bool]
    """Whether a worker computes on a GPU where there is one; if not, one process a core will do anywhere."""

    def open_run(self) -> RunFolder:
        """Create the run folder, or take up the one that an earlier, equal command made."""
        ...

    def plan(self, run: RunFolder, progress: Callable[[str], None]) -> None:
        """Decide everything that needs no model, and write it; nothing happens if a plan is there."""
        ...

    def open_worker(self, run: RunFolder, device: str) -> Worker:
        """Load models and data onto one device."""
        ...


def require_positive(job: object, *fields: str) -> None:
    """Raises InputError, naming the flag, if one of the job's numbers is below 1; None (not given) is fine."""
    for field in fields:
        value = getattr(job, field)
        if value is not None and value < 1:
            raise InputError(f"--{field.replace('_', '-')}: found {value}, expected at least 1")


def work(
    run: RunFolder,
    shards: Iterable[Shard],
    open_worker: Callable[[], Worker],
    name: str,
    told: Callable[[Shard], None] = lambda shard: None,
) -> list[Shard]:
    """Compute the given shards that have no receipt yet, and return those that failed.

    The worker is opened at the first shard that is really missing. A shard that raises is tried `TRIES_PER_SHARD`
    times, its traceback goes to attempts/, and the others go on. A user's mistake (InputError) ends the worker at
    once, because every shard would meet it again.
    """
    attempts = run.attempt(name)
    failed = []
    worker: Worker | None = None
    with _Heartbeat(run, name) as heartbeat:
        for shard in shards:
            if run.read_receipt(shard.index) is not None:
                continue
            if worker is None:
                worker = open_worker()
            heartbeat.state["shard"] = shard.index
            for _ in range(TRIES_PER_SHARD):
                attempts.started(shard.index)
                began = time.monotonic()
                try:
                    run.write_receipt(worker.run(shard))
                except InputError:
                    attempts.failed(shard.index, traceback.format_exc(), time.monotonic() - began)
                    raise
                except Exception:
                    attempts.failed(shard.index, traceback.format_exc(), time.monotonic() - began)
                else:
                    attempts.finished(shard.index, time.monotonic() - began)
                    told(shard)
                    break
            else:
                failed.append(shard)
    return failed


class _Heartbeat:
    """Rewrites heartbeats/<worker>.json every few seconds from a thread, for as long as the worker lives."""

    def __init__(self, run: RunFolder, name: str) -> None:
        self.state: dict[str, Any] = {}
        self._run = run
        self._name = name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def _beat(self) -> None:
        while True:
            self._run.beat(self._name, **self.state)
            if self._stop.wait(HEARTBEAT_SECONDS):
                return

    def __enter__(self) -> _Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._run.end_beat(self._name)
