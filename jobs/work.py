"""The work loop: claim a shard, compute it, write its receipt, until none is left.

A worker may be killed at any moment: at most its current shard is lost, and another worker takes it over.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from jobs.base import Progress, Worker
from jobs.claiming import shards_to_compute
from jobs.heartbeat import STALE_AFTER_SECONDS, Heartbeat
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder, Shard, WorkerLog

FAILURES_IN_A_ROW = 5
"""A worker that fails at this many shards without finishing one between them is the likely cause (a broken GPU)."""


@dataclass(frozen=True)
class WorkerReport:
    """Result of a worker.

    Attributes:
        finished: number of shards that it computed.
        failed: indices of shards that raised in this worker; another worker may have computed them.
        refused: message of a user's mistake (one line or a small table), or "".
        broken: traceback of the error that ended the worker, or "".
        out_of_time: whether it stopped early because of its deadline or a stop request.

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
    """Decides when to begin no more shards: when one as long as the longest so far would not end in time."""

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
    ready: Callable[[Shard, set[int]], bool] = lambda shard, done: True,
) -> WorkerReport:
    """Compute shards until none is left, and report.

    The worker is opened at the first missing shard. A shard that raises is recorded with its traceback and tried again
    later by any worker, at most `MAX_TRIES` times in all; the other shards are computed. A user's mistake (InputError)
    ends the worker at once, because it would affect every shard.

    Args:
        run: the run, planned.
        open_worker: loads models and data, once.
        name: unique name of this worker.
        part: the slice of the shards that it takes first: every `parts`-th.
        parts: number of slices.
        stale_after: seconds without a heartbeat after which a worker's shards are taken over.
        deadline: when to stop.
        log: path of the worker's output, for messages about failures.
        device: torch device, for the logs.
        in_order: the shards are a chain: take them one after the other.
        ready: whether a shard can be computed when those with some indices are done.

    """
    deadline = deadline or Deadline()
    worker_log = run.attempt(name, log, device)
    finished, failed, in_a_row = 0, set[int](), set[int]()
    worker: Worker | None = None

    def report(refused: str = "", broken: str = "", out_of_time: bool = False) -> WorkerReport:
        return WorkerReport(finished, tuple(sorted(failed)), refused, broken, out_of_time)

    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    beat = Heartbeat(run, name, stale_after, log=log, device=device, gpu=gpu)
    try:
        with beat:
            taken = shards_to_compute(run, name, part, parts, stale_after, deadline.is_near, in_order, ready)
            for shard, claim in taken:
                try:
                    if worker is None:
                        beat.now(None, doing="loading")
                        worker = open_worker()
                    beat.now(shard.index)
                    began = time.monotonic()
                    if _compute(run, worker, shard, worker_log, partial(beat.now, shard.index)):
                        finished += 1
                        failed.discard(shard.index)
                        in_a_row.clear()
                    else:
                        failed.add(shard.index)
                        in_a_row.add(shard.index)
                    deadline.longest = max(deadline.longest, time.monotonic() - began)
                finally:
                    beat.now(None)
                    run.drop(claim)
                if len(in_a_row) >= FAILURES_IN_A_ROW:
                    named = ", ".join(map(str, sorted(in_a_row)))
                    message = f"this worker failed at the shards {named} one after the other and was stopped"
                    worker_log.broken(message)
                    return report(broken=message)
    except InputError as refusal:
        worker_log.refused(str(refusal))
        return report(refused=str(refusal))
    except ImportError as error:
        # Another worker would have the same environment.
        message = f"{socket.gethostname()}: {error}; expected it in the environment of {sys.executable}"
        worker_log.refused(message)
        return report(refused=message)
    except Exception:
        worker_log.broken(traceback.format_exc())
        return report(broken=traceback.format_exc())
    return report(out_of_time=deadline.is_near() and run.unfinished())


def _compute(run: RunFolder, worker: Worker, shard: Shard, worker_log: WorkerLog, progress: Progress) -> bool:
    """Compute a shard and write its receipt; False, with a record of the failure, if it raises."""
    worker_log.started(shard)
    began = time.monotonic()
    try:
        receipt = worker.run(shard, progress)
        run.write_receipt(receipt)
    except InputError:
        raise
    except Exception:
        traceback.print_exc()  # also into the worker's output
        worker_log.failed(shard, traceback.format_exc(), time.monotonic() - began)
        run.note_failure(shard.index, worker_log.worker, traceback.format_exc(), worker_log.log)
        return False
    worker_log.finished(shard, time.monotonic() - began, receipt.items, receipt.size)
    return True
