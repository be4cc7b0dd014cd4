"""Plan a run and start its workers, on any cluster, until all of its shards are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.base import Job, SharedPlanning
from launch.clusters.cluster import Submission
from launch.exit_codes import DetachedByUser
from launch.progress import StageProgress
from storage_layouts.errors import InputError, MachineError
from storage_layouts.runs import RunFolder

if TYPE_CHECKING:
    from launch.stages import Launch


def plan_if_possible(job: Job, run: RunFolder, upstream: Sequence[RunFolder], progress: Callable[[str], None]) -> None:
    """Plan a run without a plan, unless the plan needs upstream runs that are not complete yet.

    Args:
        job: plans it.
        run: the run folder.
        upstream: runs that must be complete before the work starts.
        progress: takes messages.

    """

    def as_owner(message: str) -> None:
        run.require_own()  # another command may have taken over the folder
        progress(message)

    if run.plan is None and (job.plans_on == "planned" or not incomplete(upstream)):
        job.plan(run, as_owner)


def plan_together(
    job: Job, run: RunFolder, launch: Launch, upstream: Sequence[RunFolder], progress: StageProgress
) -> tuple[list[RunFolder], list[Path]]:
    """Have workers plan a run whose planning is work for several, or queue them with --detach.

    A planning that is refused leaves the folder free for another run; the same one goes on with what is done.

    Returns:
        The run of the planning if it is not complete then, and the logs of workers that failed.

    """
    job_of_planning = job.planning(run) if isinstance(job, SharedPlanning) else None
    if job_of_planning is None:
        return [], []
    run.settle()  # the planning lies in its folder
    planning = job_of_planning.open_run()
    if launch.retry_failed:
        planning.retry_failed()
    job_of_planning.plan(planning, progress.say)
    without_gpu = replace(launch, device="cpu", after=(), slurm=replace(launch.slurm, gpus_per_node=0))
    after = incomplete(upstream) if job.plans_on == "complete" else []
    try:
        logs = start_workers(job_of_planning, planning, without_gpu, after, progress)
    except MachineError:
        raise
    except InputError:
        run.release()
        raise
    return incomplete([planning]), logs


def start_workers(
    job: Job, run: RunFolder, launch: Launch, after: Sequence[RunFolder], progress: StageProgress
) -> list[Path]:
    """Start workers until a run is complete, `Launch.rounds` times at most, or queue them once with --detach.

    Returns the logs of those that failed.
    """
    logs: list[Path] = []
    for _ in range(launch.rounds):
        if not run.unfinished():
            break
        progress.of(run)
        submission = submit(job, run, launch, after, progress.note)
        if launch.detach:
            break
        logs = wait(submission, run, progress)
    return logs


def submit(
    job: Job, run: RunFolder, launch: Launch, after: Sequence[RunFolder], note: Callable[[str], None]
) -> Submission:
    """Start workers for the missing shards, or find those that an earlier command submitted.

    Args:
        job: the stage and its settings.
        run: the run folder.
        launch: the cluster.
        after: runs whose jobs must end first.
        note: prints a message.

    """
    run.settle()  # workers read run.json, also to plan the run
    cluster, request = launch.chosen(), launch.request(job)
    found = cluster.attach(run, request)
    if not found and run.plan and (reason := cluster.fewer_workers(request, len(run.missing()))):
        note(reason)
    submission = found or cluster.submit(run, request, after)
    if submission.cancel:
        note(f"{'found' if found else 'submitted'} {submission.label}; to cancel: {submission.cancel}")
    if submission.ignored:
        flags = " ".join(submission.ignored)
        note(
            f"{flags} had no effect: {submission.label} had been submitted before; "
            f"to change it: {submission.cancel}, then repeat the command"
        )
    return submission


def wait(submission: Submission, run: RunFolder, progress: StageProgress) -> list[Path]:
    """Wait for workers and return the logs of those that failed. After Ctrl-C or SIGTERM, queued jobs continue."""
    try:
        if submission.cancel:
            progress.note("waiting; Ctrl-C leaves them running")
        return submission.wait(lambda: progress.of(run))
    except KeyboardInterrupt as stop:
        if submission.cancel:
            progress.note(
                f"\nstopped waiting; {submission.label} continue. To watch: lens status {run.path} --watch. "
                f"To wait again: repeat the command. To cancel: {submission.cancel}"
            )
            raise DetachedByUser from stop
        raise


def incomplete(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """Returns those of some runs that are not complete."""
    return [run for run in runs if not run.is_complete()]
