"""One training run by several processes, one per GPU, started by `accelerate launch` or torchrun."""

from __future__ import annotations

import time
from collections.abc import Callable

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from jobs.heartbeat import STALE_AFTER_SECONDS, Heartbeat
from jobs.train_job import TrainJob
from jobs.worker import settle_device
from storage_layouts.errors import InputError
from storage_layouts.processes import unique_name
from storage_layouts.runs import RunFolder


def train_together(job: TrainJob, device: str, look: Callable[[RunFolder], None] = lambda run: None) -> int:
    """Compute the missing shards of a run; every process calls this, and only the main process writes.

    Args:
        job: the training.
        device: see `WorkerOptions`.
        look: called by the main process after each step with the run, whose heartbeats have the progress.

    Returns:
        The exit code.

    Raises:
        InputError: in every process, if the main process cannot open the run.

    """
    settled = settle_device(device)
    state = PartialState(cpu=settled == "cpu")
    error = [_open(job) if state.is_main_process else ""]
    broadcast_object_list(error)
    if error[0]:
        raise InputError(error[0])
    run = RunFolder.open(job.out)
    missing = [[shard.index for shard in run.missing()] if state.is_main_process else []]
    broadcast_object_list(missing)
    if not missing[0]:
        return 0
    name = unique_name()
    worker = job.open_worker(run, settled)
    worker_log = run.attempt(name, device=settled) if state.is_main_process else None
    with Heartbeat(run, name, STALE_AFTER_SECONDS, device=settled) as beat:

        def progress(items: int, doing: str = "") -> None:
            if worker_log:
                beat.now(shard.index, items, doing)
                look(run)

        for index in missing[0]:
            shard, began = run.require_plan().shard(index), time.monotonic()
            if worker_log:
                worker_log.started(shard)
            receipt = worker.run(shard, progress)
            if worker_log:
                run.write_receipt(receipt)
                worker_log.finished(shard, time.monotonic() - began, receipt.items, receipt.size)
    state.wait_for_everyone()
    return 0


def _open(job: TrainJob) -> str:
    """Open and plan the run; returns the message of a user's mistake, or ""."""
    try:
        job.plan(job.open_run(), lambda message: None)
    except InputError as refusal:
        return str(refusal)
    return ""
