"""How the jobs of a run ended, and what SLURM knows of it: read from its queue and from the files in submissions/."""

from __future__ import annotations

import contextlib
import pickle
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from jobs.work import WorkerReport
from launch.clusters.cluster import QueuedJob, QueueView
from launch.clusters.logs import End, first_error, last_words, read_log, refusal
from launch.clusters.slurm_queue import SCHEDULER, QueueEntry, jobs_of
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder

REPEATS_ITSELF = ("ImportError", "ModuleNotFoundError", "PermissionError", "storage_layouts.errors.")
"""How the last line of an exception begins that another job on this cluster would meet too."""


def view_of(run: RunFolder, living: Collection[str]) -> QueueView:
    """Ask SLURM for the jobs of a run, and read what they left; see `Cluster.view`."""
    listed, silence, unknown = None, "", False
    if shutil.which("squeue") is None:
        silence = "there is no squeue on this machine to ask for the jobs that were submitted"
    else:
        try:
            listed = jobs_of(run)
        except InputError as error:
            silence, unknown = f"SLURM's controller does not answer ({error})", True
    jobs = [QueuedJob(entry.job, entry.state, entry.node, entry.reason) for entry in listed or () if not entry.ended]
    ends = tuple(end for end in ends_of(run, listed) if end.log not in living)
    return QueueView(SCHEDULER, None if listed is None else tuple(jobs), silence, unknown, ends)


def ends_of(run: RunFolder, listed: Sequence[QueueEntry] | None, only: Collection[str] | None = None) -> list[End]:
    """The workers of this run's jobs that ended badly, in order of time.

    Args:
        run: the run.
        listed: what the queue says of its jobs, those that ended included; None if it is not known which ended.
        only: the ids of the jobs to look at; by default all.

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
    """The end of a job that never began to write: its node could not start it, or not write into the folder."""
    scripts = (run.path / "submissions").glob(f"*/{state.array}_submission.sh")
    submitted = max((script.stat().st_mtime for script in scripts), default=0.0)
    folder = run.path / "submissions"
    error = f"{state_of(state)}, before it could write a log; expected a node that can write into {folder}"
    return End(f"SLURM job {state.job}", error, "", submitted, state.reason == "JobLaunchFailure")


def _logs(run: RunFolder) -> Iterator[tuple[str, str, Path]]:
    """Job, task and log of every task that began: a job has one log a task."""
    for folder in sorted((run.path / "submissions").glob("*/")):
        with contextlib.suppress(OSError):
            folder.chmod(folder.stat().st_mode)  # makes NFS look at it again
        for log in sorted(folder.glob("*_log.err")):
            job, task = log.name.removesuffix("_log.err").rsplit("_", 1)
            yield job, task, log


def _end(job: str, result: Path, log: Path, state: QueueEntry | None, ended: bool) -> Iterator[End]:
    """The bad end of a task, if it had one; `ended`: it certainly is over."""
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
    """What submitit kept of a task: "success" and what it returned, "error" and a traceback, or "" and None."""
    try:
        with path.open("rb") as file:
            outcome, content = _Reports(file).load()
            return str(outcome), content
    except FileNotFoundError:
        return "", None
    except Exception as error:  # of another version, or cut off by a full disk
        return "error", f"{path}: cannot be read: {error!r}"


class _Reports(pickle.Unpickler):
    """Reads reports, and runs no code that somebody else put into a folder."""

    def find_class(self, module: str, name: str) -> Any:
        """The class of a report, or a refusal."""
        if (module, name) == ("jobs.work", "WorkerReport"):
            return WorkerReport
        raise pickle.UnpicklingError(f"{module}.{name} is no report of a worker")


def _report(report: Any) -> tuple[str, bool]:
    """Why a worker failed by its own report, and whether it refused; "" if all went well."""
    if report.refused:
        return report.refused, True
    broken = report.broken.strip().rpartition("\n")[2]
    return broken or (f"failed at {len(report.failed)} shards" if report.failed else ""), False


def state_of(entry: QueueEntry) -> str:
    """What SLURM says of a job, as in "out of memory on n3"."""
    words = entry.state.lower().replace("_", " ")
    where = f" on {entry.node}" if entry.node else ""
    return f"{words}{where}" + (f" ({entry.reason})" if entry.reason not in ("", "None") else "")
