"""Start a stage: open its run, plan, launch workers for what is missing, until all is there or nothing moves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from jobs.base import Job
from launch.clusters.local import launch_local
from launch.flags import parse
from launch.progress import StageProgress
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder

ROUNDS = 3


@dataclass(frozen=True)
class Launch:
    """Where and how wide a stage runs. On one kind of device nothing here changes a byte of the result."""

    cluster: Literal["local"] = "local"
    """Where the workers run."""
    workers: int | None = None
    """Worker processes; by default one a GPU, or one a core."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What the workers compute on; auto takes CUDA where there is a GPU, else the CPU."""


def stage_command(job_type: type[Job], argv: Sequence[str] | None) -> int:
    """The command line of a stage: the job's fields and those of `Launch` are its flags. Returns the exit code."""
    fields: list[Any] = [("job", job_type), ("launch", Launch, field(default_factory=Launch))]
    command_type = make_dataclass("Command", fields, frozen=True)
    command_type.__doc__ = job_type.__doc__

    def run() -> int:
        command: Any = parse(command_type, argv, f"lens {job_type.stage}")
        return run_stage(command.job, command.launch)

    return exit_code(run)


def run_stage(job: Job, launch: Launch, console: Console | None = None) -> int:
    """Run a job until it is complete and return the exit code: 0 complete, 1 incomplete.

    What earlier commands finished is not done again. A worker that dies is replaced in the next round, at most
    `ROUNDS` times; the rest of what failed is shown with its log.
    """
    if launch.workers is not None and launch.workers < 1:
        raise InputError(f"--workers: found {launch.workers}, expected at least 1")
    console = console or Console(stderr=True)
    run = job.open_run()
    with StageProgress(console, job.stage) as progress:
        job.plan(run, progress.say)
        plan = run.require_plan()
        logs: list[Path] = []
        for _ in range(ROUNDS):
            if not run.missing():
                break
            progress.shards(len(run.done()), plan.shard_count)
            logs = launch_local(
                run,
                launch.workers,
                launch.device,
                lambda: progress.shards(len(run.done()), plan.shard_count),
                needs_device=job.needs_device,
            )
    missing = run.missing()
    if missing:
        failure = _failure(run, len(missing), logs)
        console.print(failure, style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    for line in _skipped(run):
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    done = f"{job.stage}: complete, {plan.items:,} items in {plan.shard_count:,} shards: {run.path}"
    console.print(done, markup=False, highlight=False, soft_wrap=True)
    return 0


def _skipped(run: RunFolder, shown: int = 10) -> list[str]:
    """The images that could not be read: how many, and the first of them."""
    found = [skipped for receipt in run.receipts() for skipped in receipt.facts.get("unreadable", [])]
    if not found:
        return []
    more = [f"  ... and {len(found) - shown} more (geometry/ lists all)"] if len(found) > shown else []
    lines = [f"  {skipped['path']}: {skipped['reason']}" for skipped in found[:shown]]
    return [f"{run.stage}: {len(found)} images could not be read and were skipped:", *lines, *more]


def _failure(run: RunFolder, missing: int, logs: list[Path]) -> str:
    failures = [line for line in run.attempts_log() if line["event"] == "failed"]
    # A worker that fell before its first shard left its traceback in its log alone; one that was killed, nothing.
    words = failures[-1]["traceback"] if failures else "".join(path.read_text(errors="replace") for path in logs)
    last = (words.strip().splitlines() or ["a worker was killed"])[-1]
    where = f"; log: {logs[-1]}" if logs else ""
    return f"{run.stage}: {missing} shards are missing ({last}{where}); repeat the command to go on: {run.path}"


def exit_code(main: Callable[[], int]) -> int:
    """Run a command and turn a user's mistake into one message and exit code 2."""
    try:
        return main()
    except InputError as refusal:
        Console(stderr=True).print(f"error: {refusal}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        print("stopped; repeat the command to go on", file=sys.stderr)
        return 130
