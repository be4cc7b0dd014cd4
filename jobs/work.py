"""The work loop: claim a shard, compute it, write its receipt, and so on until none is left.

A worker may be killed anywhere: at most the shard in hand is lost, and another worker takes it over.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from jobs.base import Progress, Worker
from jobs.claiming import shards_to_compute
from jobs.heartbeat import STALE_AFTER_SECONDS, Heartbeat
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder, Shard, WorkerLog

FAILURES_IN_A_ROW = 5
"""A worker that fails at so many shards and finishes none between them is itself the likely cause (a sick GPU)."""


@dataclass(frozen=True)
class WorkerReport:
    """How a worker ended.

    Attributes:
        finished: shards that it computed.
        failed: indices of shards that raised in this worker, though another one may have mended them.
        refused: a user's mistake in one line or a small table, or "".
        broken: traceback of what kept the worker from going on, or "".
        out_of_time: it stopped early because its time was nearly up or it was told to.

    """

    finished: int = 0
    failed: tuple[int, ...] = ()
    refused: str = ""
    broken: str = ""
    out_of_time: bool = False

    @property
    def exit_code(self) -> int:
        """0 all went well, 1 something failed, 2 refused."""
        return 2 if self.refused else int(bool(self.failed or self.broken))


@dataclass
class Deadline:
    """When to begin no more shards: the moment when the longest one so far would no longer end in time."""

    at: float | None = None  # Unix seconds
    stop: Callable[[], bool] = lambda: False
    longest: float = 0.0

    def is_near(self) -> bool:
        """Whether another shard would probably not be finished."""
        return self.stop() or (self.at is not None and time.time() + self.longest > self.at)


def work(
    run: RunFolder,
    open_worker: Callable[[], Worker],
    name: str,
    part: int = 0,
    parts: int = 1,
    stale_after: float = STALE_AFTER_SECONDS,
    deadline: Deadline | None = None,
    log: str = "",
    device: str = "",
    in_order: bool = False,
) -> WorkerReport:
    """Compute shards until none is left, and report.

    The worker is opened at the first shard that is really missing. A shard that raises is noted with its traceback and
    taken up again later, by whoever comes first, at most `MAX_TRIES` times in all; the others go on. A user's mistake
    (InputError) ends the worker at once, because every shard would meet it again.

    Args:
        run: the run, planned.
        open_worker: loads what is expensive, once.
        name: of this worker; no other may have it.
        part: its slice of the shards, which it takes first: every `parts`-th.
        parts: number of slices.
        stale_after: seconds of silence after which a worker's shards are taken over.
        deadline: when to stop.
        log: path of the worker's own output, for those who look for the cause of a failure.
        device: what it computes on, for the logs.
        in_order: the shards are a chain: take them one after the other.

    """
    deadline = deadline or Deadline()
    worker_log = run.attempt(name, log, device)
    tally = _Tally()
    worker: Worker | None = None
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    beat = Heartbeat(run, name, stale_after, log=log, device=device, gpu=gpu)
    try:
        with beat:
            taken = shards_to_compute(run, name, part, parts, stale_after, deadline.is_near, in_order)
            for shard, claim in taken:
                try:
                    if worker is None:
                        beat.now(None, doing="loading")
                        worker = open_worker()
                    beat.now(shard.index)
                    began = time.monotonic()
                    _compute(run, worker, shard, worker_log, tally, partial(beat.now, shard.index))
                    deadline.longest = max(deadline.longest, time.monotonic() - began)
                finally:
                    beat.now(None)
                    run.drop(claim)
                if len(tally.in_a_row) >= FAILURES_IN_A_ROW:
                    named = ", ".join(map(str, sorted(tally.in_a_row)))
                    message = f"this worker failed at the shards {named} one after the other and was stopped"
                    worker_log.broken(message)
                    return tally.report(broken=message)
    except InputError as refusal:
        worker_log.refused(str(refusal))
        return tally.report(refused=str(refusal))
    except ImportError as error:
        # Another worker would find the same Python.
        message = f"{socket.gethostname()}: {error}; expected it in the environment of {sys.executable}"
        worker_log.refused(message)
        return tally.report(refused=message)
    except Exception:
        worker_log.broken(traceback.format_exc())
        return tally.report(broken=traceback.format_exc())
    return tally.report(out_of_time=deadline.is_near() and run.unfinished())


@dataclass
class _Tally:
    """What a worker has done so far."""

    finished: int = 0
    failed: set[int] = field(default_factory=set)
    in_a_row: set[int] = field(default_factory=set)

    def report(self, refused: str = "", broken: str = "", out_of_time: bool = False) -> WorkerReport:
        return WorkerReport(self.finished, tuple(sorted(self.failed)), refused, broken, out_of_time)


def _compute(
    run: RunFolder, worker: Worker, shard: Shard, worker_log: WorkerLog, tally: _Tally, progress: Progress
) -> None:
    worker_log.started(shard)
    began = time.monotonic()
    try:
        receipt = worker.run(shard, progress)
        run.write_receipt(receipt)
    except InputError:
        raise
    except Exception:
        traceback.print_exc()  # into the worker's own log too
        worker_log.failed(shard, traceback.format_exc(), time.monotonic() - began)
        run.note_failure(shard.index, worker_log.worker, traceback.format_exc(), worker_log.log)
        tally.failed.add(shard.index)
        tally.in_a_row.add(shard.index)
    else:
        size = sum(digest.bytes for digest in receipt.files.values())
        worker_log.finished(shard, time.monotonic() - began, receipt.items, size)
        tally.finished += 1
        tally.failed.discard(shard.index)
        tally.in_a_row.clear()
