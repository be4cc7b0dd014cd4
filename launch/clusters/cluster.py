"""What a stage needs of a cluster, and what a cluster needs to know of a stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from launch.clusters.logs import End
from storage_layouts.runs import RunFolder

if TYPE_CHECKING:  # `lens status` needs no worker
    from jobs.worker import WorkerOptions


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


@dataclass(frozen=True)
class QueuedJob:
    """What the scheduler says of a job of a run."""

    job: str
    state: str
    node: str
    reason: str


@dataclass(frozen=True)
class QueueView:
    """What a scheduler knows of a run.

    Attributes:
        scheduler: its name, for people.
        queue: jobs that are queued or running; None where nobody can be asked.
        silence: why there is no answer, or "".
        unknown: whether jobs may be queued or running though nobody says so: the scheduler does not answer.
        ends: the jobs that ended badly.

    """

    scheduler: str
    queue: tuple[QueuedJob, ...] | None = None
    silence: str = ""
    unknown: bool = False
    ends: tuple[End, ...] = ()


@dataclass(frozen=True)
class CallStatus:
    """A single command that was queued as a job of its own.

    Attributes:
        name: of the job, as in "lens-report".
        folder: where it was asked for.
        scheduler: its name, for people.
        job: its id.
        state: complete (it ended with exit code 0), running, waiting (in the queue), stopped (it ended otherwise, or
            is gone), unknown (the scheduler does not answer).
        reason: why it waits, by the scheduler, or "".
        error: why it stopped, or why the state is unknown; else "".
        log: of the job.

    """

    name: str
    folder: Path
    scheduler: str
    job: str
    state: Literal["complete", "running", "waiting", "stopped", "unknown"]
    reason: str
    error: str
    log: str

    @property
    def over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state in ("complete", "stopped")


@dataclass(frozen=True)
class Cluster(ABC):
    """One way to start workers: a frozen dataclass whose fields are its flags.

    One that has a queue says so in `queues`, and has the last three methods too.
    """

    name: ClassVar[str]
    """What --cluster calls it."""
    queues: ClassVar[bool] = False
    """Whether its jobs go on without the command that submitted them, and can be queued behind others."""

    @abstractmethod
    def check(self, request: WorkerRequest) -> None:
        """Raises InputError if the cluster cannot be reached or has not what is asked for; asked before all else."""

    @abstractmethod
    def default_workers(self, request: WorkerRequest) -> int:
        """How many workers it starts at most if nobody says how many."""

    @abstractmethod
    def submit(self, run: RunFolder, request: WorkerRequest, after: Sequence[RunFolder] = ()) -> Submission:
        """Start workers for what is missing of a run, or queue them behind the jobs of the runs `after`.

        Raises InputError if the cluster cannot be reached or refuses.
        """

    def attach(self, run: RunFolder, request: WorkerRequest) -> Submission | None:
        """The workers of this run that an earlier command left behind and that are still queued or running.

        `request`: what this command asks for. InputError if the cluster does not answer: no answer is not "none".
        """
        return None

    def without_effect(self, request: WorkerRequest) -> list[str]:
        """The flags of this cluster that do not hold for such workers, each with the reason."""
        return []

    def plan_text(self, stage: str, request: WorkerRequest, missing: int, out: Path) -> str:
        """What the scheduler would be handed for so many missing shards, for --plan; "" if nothing."""
        return ""

    def view(self, run: RunFolder, living: Collection[str]) -> QueueView | None:
        """What the scheduler knows of a run with a folder `submissions`, where clusters with a queue keep their files.

        None if it was submitted to another one. `living`: logs of living workers.
        """
        return None

    def submit_function(
        self,
        name: str,
        folder: Path,
        function: Callable[[list[str]], int],
        flags: list[str],
        after: Sequence[RunFolder],
    ) -> str:
        """Queue one call on a node without a GPU, behind the jobs of the runs `after`.

        Returns what to call it; `calls_in` finds it again from the folder.

        Args:
            name: of the job.
            folder: where its files go, each call in a folder of its own.
            function: is called with the flags, and returns an exit code.
            flags: its one argument.
            after: runs.

        """
        raise NotImplementedError

    def calls_in(self, folder: Path) -> Iterable[CallStatus]:
        """The calls that were queued from a folder: of each name the one that was queued last."""
        return ()
