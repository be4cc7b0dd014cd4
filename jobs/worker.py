"""The worker process. Its input is the run folder, so any scheduler can start it on a machine that sees the folder.

`python -m jobs.worker RUN --device cpu --part 0/2`. Exit codes: 0 nothing is left for it, 1 something failed, 2 refused
(with the reason in one line on standard output).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from jobs.base import JOBS, ChainJob, Job, TreeJob, job_class, open_worker, unknown_fields, validation_error
from jobs.heartbeat import STALE_AFTER_SECONDS, Heartbeat
from jobs.work import Deadline, WorkerReport, work
from storage_layouts.errors import InputError
from storage_layouts.printable import printable_lines
from storage_layouts.processes import unique_name
from storage_layouts.runs import RunFolder

LEFT = "ended with the command that had started it"
"""The last line in the log of a worker that ended because its command was stopped."""


@dataclass(frozen=True)
class WorkerOptions:
    """Options that a launcher passes to its workers on every cluster.

    Attributes:
        device: auto, cpu, cuda, cuda:N, mps or spread; auto is CUDA if torch sees a device, else the CPU; spread
            divides the model among all visible CUDA devices.
        stale_after: seconds without a heartbeat after which other workers take over a worker's shards.
        after: runs that must be complete before the work starts, besides the upstream runs of the job.
        index_memory: bytes of a store that each device of a worker may hold; None for what is free.

    """

    device: str = "auto"
    stale_after: float = STALE_AFTER_SECONDS
    after: tuple[Path, ...] = ()
    index_memory: int | None = None


def job_of(run: RunFolder) -> Job:
    """The job of a run folder, from its configuration. InputError for an unknown stage or field."""
    if run.stage not in JOBS:
        raise InputError(f"{run.path}: holds a {run.stage!r} run, expected one of {', '.join(JOBS)}")
    job_type = job_class(run.stage)
    import pydantic

    file = run.path / "run.json"
    commit = f" (commit {run.created['commit']})" if run.created.get("commit") else ""
    if unknown := sorted(unknown_fields(job_type, run.config)):
        raise InputError(
            f"{file}: config.{unknown[0]} is not a setting of this lenscore {version('lenscore')}; the run was "
            f"made by lenscore {run.versions.get('lenscore', '(unknown)')}{commit}; run all workers with that version"
        )
    try:
        return pydantic.TypeAdapter(job_type).validate_python({**run.config, "out": run.path})
    except pydantic.ValidationError as error:
        raise InputError(f"{file}: config.{validation_error(error)}") from None


def run_worker(
    path: Path,
    options: WorkerOptions,
    part: int,
    parts: int,
    log: str = "",
    deadline: float | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> WorkerReport:
    """Compute the shards of a run until none is left for this worker, on any cluster.

    Args:
        path: the run folder.
        options: device and other options.
        part: this worker's slice of the shards, of `parts`; it takes others when these are done.
        parts: number of requested workers.
        log: path of the output of this process.
        deadline: Unix seconds by which it must have ended; it begins no shard that would not be done by then.
        stop: called between shards; True ends the worker.

    """
    name = unique_name()
    try:
        run = RunFolder.open(path)
    except InputError as refusal:
        return WorkerReport(refused=str(refusal))
    try:
        job = job_of(run)
        for upstream in (*job.upstream, *options.after):
            RunFolder.open(upstream).require_complete()
        device = settle_device(options.device) if job.needs_device else "cpu"
        if run.plan is None:
            with Heartbeat(run, name, options.stale_after, role="launcher", log=log) as beat:
                job.plan(run, lambda message: beat.now(None, doing=message))
    except InputError as refusal:
        with contextlib.suppress(InputError):  # if the folder cannot be written, only the report has the message
            run.attempt(name, log).refused(str(refusal))
        return WorkerReport(refused=str(refusal))
    until = Deadline(deadline, stop)
    more = {"ready": job.ready(run)} if isinstance(job, TreeJob) else {"in_order": isinstance(job, ChainJob)}
    opened = partial(open_worker, job, run, device, options.index_memory)
    return work(run, opened, name, part, parts, options.stale_after, until, log, device, **more)


def settle_device(device: str) -> str:
    """The torch device for an option `device` on this machine. InputError if it needs CUDA and there is none."""
    import torch  # only stages that need a device

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith(("cuda", "spread")) and not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        raise InputError(
            f"--device {device}: torch {torch.__version__} finds no CUDA device on {socket.gethostname()} "
            f"(CUDA_VISIBLE_DEVICES: {visible}); expected one, or --device cpu"
        )
    if device == "cpu":
        # With more threads, the last bit of a sum would depend on their number.
        torch.set_num_threads(1)
    return "cuda:0" if device == "cuda" else device


def main(argv: list[str] | None = None) -> int:
    """Run one worker of a run."""
    parser = argparse.ArgumentParser(prog="python -m jobs.worker", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--device", default="auto", help="torch device, as in cuda:0")
    parser.add_argument("--part", default="0/1", help="slice of the shards that it takes first, as in 0/2")
    parser.add_argument("--stale-after", type=float, default=STALE_AFTER_SECONDS)
    parser.add_argument("--after", type=Path, nargs="*", default=[], help="runs that must be complete")
    parser.add_argument("--index-memory", type=int, help="bytes of a store that a device may hold")
    parser.add_argument("--log", default="", help="path of the output of this process")
    parser.add_argument("--leave-with-parent", action="store_true", help="end when standard input closes")
    arguments = parser.parse_args(argv)
    if arguments.leave_with_parent:
        threading.Thread(target=_leave_with_parent, daemon=True).start()
    part, parts = (int(number) for number in arguments.part.split("/"))
    options = WorkerOptions(arguments.device, arguments.stale_after, tuple(arguments.after), arguments.index_memory)
    report = run_worker(arguments.run, options, part, parts, arguments.log)
    if report.refused:
        print(printable_lines(report.refused))
    if report.broken:
        print(printable_lines(report.broken), file=sys.stderr)
    return report.exit_code


def _leave_with_parent() -> None:
    """End the process when its standard input closes, a pipe from the launcher that ends with it."""
    while os.read(0, 1024):
        pass
    print(LEFT, file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
