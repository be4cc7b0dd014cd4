"""What a stage needs of a cluster, and what a cluster needs to know of a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from jobs.worker import WorkerOptions
from storage_layouts.runs import RunFolder


@dataclass(frozen=True)
class WorkerRequest:
    """The workers that are wanted, whatever the cluster.

    Attributes:
        workers: how many; None leaves it to the cluster.
        needs_device: whether each computes on a GPU where there is one.
        options: what every one of them is told.
        paths: files and folders that the user named, by the words of the command line, as in "--out runs/a".

    """

    workers: int | None
    needs_device: bool
    options: WorkerOptions
    paths: Mapping[str, Path] = field(default_factory=dict)


class Submission(Protocol):
    """Workers that were started or queued.

    Attributes:
        label: what they are, as in "SLURM jobs 17 and 18".
        cancel: the command that cancels them, or "" if they end with this process.
        survives: whether they go on when this process ends.
        ignored: flags of this command that do not hold for workers that an earlier command has submitted.

    """

    label: str
    cancel: str
    survives: bool
    ignored: tuple[str, ...]

    def wait(self, watch: Callable[[], None]) -> list[Path]:
        """Wait until all workers have ended, and return the logs of those that failed.

        `watch` is called some times a second. Raises InputError with the worker's own words if one refused its input.
        """
        ...


class Cluster(Protocol):
    """One way to start workers; a frozen dataclass whose fields are its flags."""

    def check(self, request: WorkerRequest) -> None:
        """Raises InputError if the cluster cannot be reached or has not what is asked for; asked before all else."""
        ...

    def default_workers(self, request: WorkerRequest) -> int:
        """How many workers it starts at most if nobody says how many."""
        ...

    def attach(self, run: RunFolder, request: WorkerRequest) -> Submission | None:
        """The workers of this run that an earlier command left behind and that are still queued or running.

        `request`: what this command asks for. InputError if the cluster does not answer: no answer is not "none".
        """
        ...

    def submit(self, run: RunFolder, request: WorkerRequest, after: Sequence[RunFolder] = ()) -> Submission:
        """Start workers for what is missing of a run, or queue them behind the jobs of the runs `after`.

        Raises InputError if the cluster cannot be reached or refuses.
        """
        ...
