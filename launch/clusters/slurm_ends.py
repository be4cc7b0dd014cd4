"""How the jobs of a run ended, by SLURM's queue and the files in submissions/."""

from __future__ import annotations

import contextlib
import pickle
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from jobs.work import WorkerReport
from launch.clusters.cluster import QueueView
from launch.clusters.logs import End, first_error, last_words, read_log, refusal
from launch.clusters.slurm_queue import SCHEDULER, QueueEntry, jobs_of
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder

REPEATS_ITSELF = ("ImportError", "ModuleNotFoundError", "PermissionError", "storage_layouts.errors.")
"""Prefixes of the last line of exceptions that would repeat in another job on this cluster."""


def view_of(run: RunFolder, living: Collection[str]) -> QueueView:
    """Query SLURM for the jobs of a run, and read their files; see `Cluster.view`."""
    listed, silence, unknown = None, "", False
    if shutil.which("squeue") is None:
        silence = "there is no squeue on this machine to ask for the jobs that were submitted"
    else:
        try:
            listed = jobs_of(run)
        except InputError as error:
            silence, unknown = f"SLURM's controller does not answer ({error})", True
    queue = None if listed is None else tuple(entry for entry in listed if not entry.ended)
    ends = tuple(end for end in ends_of(run, listed) if end.log not in living)
    return QueueView(SCHEDULER, queue, silence, unknown, ends)


def ends_of(run: RunFolder, listed: Sequence[QueueEntry] | None, only: Collection[str] | None = None) -> list[End]:
    """Returns the failed workers of a run's jobs, in order of time.

    Args:
        run: the run.
        listed: its jobs in the queue, ended ones included; None if the queue is unknown.
        only: ids of the jobs to consider; by default all.

    """
    states = {entry.job: entry for entry in listed or []}
    found: list[End] = []
    logged = set()
    for job, task, log in _logs(run):
        state = states.get(job)
        logged.add(job)
        if (only is None or job in only) and (state is None or state.ended):
            found += _end(job, log.with_name(f"{job}_{task}_result.pkl"), log, state, listed is not None)
    for job, state in states.items():
        if state.ended and state.state not in ("COMPLETED", "CANCELLED") and job not in logged:
            found.append(_without_log(run, state))
    return sorted(found, key=lambda end: end.time)


def _without_log(run: RunFolder, state: QueueEntry) -> End:
    """Returns the end of a job without a log: its node could not start it, or could not write into the folder."""
    scripts = (run.path / "submissions").glob(f"*/{state.array}_submission.sh")
    submitted = max((script.stat().st_mtime for script in scripts), default=0.0)
    folder = run.path / "submissions"
    error = f"{state_of(state)}, before it could write a log; expected a node that can write into {folder}"
    return End(f"SLURM job {state.job}", error, "", submitted, state.reason == "JobLaunchFailure")


def _logs(run: RunFolder) -> Iterator[tuple[str, str, Path]]:
    """Yields job, task and log of every task that began."""
    for folder in sorted((run.path / "submissions").glob("*/")):
        with contextlib.suppress(OSError):
            folder.chmod(folder.stat().st_mode)  # makes NFS refresh it
        for log in sorted(folder.glob("*_log.err")):
            job, task = log.name.removesuffix("_log.err").rsplit("_", 1)
            yield job, task, log


def _end(job: str, result: Path, log: Path, state: QueueEntry | None, ended: bool) -> Iterator[End]:
    """Yields the end of a task if it failed. `ended`: whether the task is known to be over."""
    error, refused = "", False
    outcome, report = read_result(result)
    if outcome == "success":
        error, refused = _report(report)
    elif outcome == "error":
        text = str(report).strip()
        error, refused = first_error(text) or text[-200:], text.rpartition("\n")[2].startswith(REPEATS_ITSELF)
    else:
        text = read_log(log)
        refused = bool(refusal(text))
        error = first_error(text) or (last_words(text) if ended else "")
        if state is not None and state.state not in ("COMPLETED", "FAILED") and not refused:
            error = f"{state_of(state)}: {error}"
    if error:
        with contextlib.suppress(FileNotFoundError):
            yield End(f"SLURM job {job}", error, str(log), log.stat().st_mtime, refused)


def read_result(path: Path) -> tuple[str, Any]:
    """Returns submitit's record of a task: "success" and its result, "error" and a traceback, or "" and None."""
    try:
        with path.open("rb") as file:
            outcome, content = _Reports(file).load()
            return str(outcome), content
    except FileNotFoundError:
        return "", None
    except Exception as error:  # written by another version, or truncated by a full disk
        return "error", f"{path}: cannot be read: {error!r}"


class _Reports(pickle.Unpickler):
    """Unpickles reports only, so that a foreign file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns the class of a report. Raises UnpicklingError for any other class."""
        if (module, name) == ("jobs.work", "WorkerReport"):
            return WorkerReport
        raise pickle.UnpicklingError(f"{module}.{name} is no report of a worker")


def _report(report: Any) -> tuple[str, bool]:
    """Returns the error in a worker's report, "" for none, and whether the worker refused its input."""
    if report.refused:
        return report.refused, True
    broken = report.broken.strip().rpartition("\n")[2]
    return broken or (f"failed at {len(report.failed)} shards" if report.failed else ""), False


def state_of(entry: QueueEntry) -> str:
    """Returns the state of a job in words, as in "out of memory on n3"."""
    words = entry.state.lower().replace("_", " ")
    where = f" on {entry.node}" if entry.node else ""
    return f"{words}{where}" + (f" ({entry.reason})" if entry.reason not in ("", "None") else "")
