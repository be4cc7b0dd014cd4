"""Wait for jobs of SLURM by polling its queue, and read the results that submitit stored."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.clusters.cluster import Submission
from launch.clusters.logs import End
from launch.clusters.slurm_ends import ends_of
from launch.clusters.slurm_queue import QueueEntry, ask, job_name, queue_question, read_queue
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder

WATCH_SECONDS = 0.2
ASK_SECONDS = 1.0, 15.0
"""Least and most seconds between two queries: the controller serves the whole cluster."""
SQUEUE_SECONDS = 60.0
SURE_AFTER = 2
"""Queries in a row that must miss a job: while it is being requeued, its state is unreliable."""


class SlurmSubmission(Submission):
    """Queued jobs; see `launch.clusters.cluster.Submission`."""

    def __init__(self, run: RunFolder, jobs: Sequence[str], ignored: tuple[str, ...] = ()) -> None:
        self.jobs = tuple(jobs)
        self.ignored = ignored
        self._ids = frozenset(jobs)
        self._run = run
        arrays = list(dict.fromkeys(job.partition("_")[0] for job in jobs))
        named = f"{', '.join(arrays[:-1])} and {arrays[-1]}" if len(arrays) > 1 else arrays[0]
        self.label = f"SLURM job{'s' if len(arrays) > 1 else ''} {named}"
        self.cancel = f"scancel {' '.join(arrays)}"

    def wait(self, watch: Callable[[], None]) -> list[Path]:
        """Wait until all jobs have left the queue, and return the logs of the workers that failed.

        Continues to wait while the controller does not answer. Raises InputError if the run is unfinished and a worker
        refused its input (with its message), or a job was cancelled; a cancelled job must not be submitted again.
        """
        began = time.monotonic()
        absent, cancelled = 0, set()
        listed: list[QueueEntry] | None = []
        while absent < SURE_AFTER:
            listed = self._query(watch)
            if listed is not None:
                absent = 0 if any(not entry.ended for entry in listed) else absent + 1
                cancelled |= {entry.job for entry in listed if entry.state == "CANCELLED"}
            if absent < SURE_AFTER:
                shortest, longest = ASK_SECONDS
                _sleep(min(longest, max(shortest, (time.monotonic() - began) / 30)), watch)
        watch()
        ends = ends_of(self._run, listed, self._ids)
        refused = next((_refused(end) for end in ends if end.refused), "")
        if (refused or cancelled) and self._run.unfinished():
            raise InputError(refused or f"SLURM: {', '.join(sorted(cancelled))} cancelled; repeat the command to go on")
        return [Path(end.log) for end in ends if end.log]

    def _query(self, watch: Callable[[], None]) -> list[QueueEntry] | None:
        """Returns these jobs as the queue lists them, or None without an answer. Calls `watch` meanwhile."""
        answers: list[str] = []

        def query() -> None:
            with contextlib.suppress(InputError, OSError):
                answers.append(ask(queue_question(job_name(self._run.stage, self._run.run_id)), SQUEUE_SECONDS))

        thread = threading.Thread(target=query, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(WATCH_SECONDS)
            watch()
        return [entry for entry in read_queue(answers[0]) if entry.job in self._ids] if answers else None


def _sleep(seconds: float, watch: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        watch()
        time.sleep(min(WATCH_SECONDS, left))


def _refused(end: End) -> str:
    """Returns the message for an error that would repeat; without a log it names the worker."""
    return f"{end.error}; log: {end.log}" if end.log else f"{end.worker}: {end.error}"
