"""The interface between stages and clusters."""

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
    """The requested workers, independent of the cluster.

    Attributes:
        workers: how many; None for the default of the cluster.
        needs_device: whether each computes on a GPU where there is one.
        options: of every worker.
        paths: files and folders that the user named, by the words of the command line, as in "--out runs/a".
        worker_bytes: returns the memory of a worker on a CPU; None if it is not known, or small.

    """

    workers: int | None
    needs_device: bool
    options: WorkerOptions
    paths: Mapping[str, Path] = field(default_factory=dict)
    worker_bytes: Callable[[], int | None] = lambda: None


class Submission(Protocol):
    """Workers that were started or queued.

    Attributes:
        label: what is shown to the user, as in "SLURM jobs 17 and 18".
        cancel: the command that cancels them; "" if they end with this process.
        ignored: flags of this command that have no effect on workers that an earlier command submitted.

    """

    label: str
    cancel: str = ""
    ignored: tuple[str, ...] = ()

    def wait(self, watch: Callable[[], None]) -> list[Path]:
        """Wait until all workers have ended, and return the logs of those that failed.

        `watch` is called several times a second. Raises InputError with the message of a worker that refused its input.
        """
        ...


@dataclass(frozen=True)
class QueuedJob:
    """A job of a run in the queue of a scheduler.

    Attributes:
        job: its id, as in "17_3".
        state: in the scheduler's terms, as in "RUNNING".
        node: where it runs, or "".
        reason: why it is pending, in the scheduler's terms, or "None".

    """

    job: str
    state: str
    node: str
    reason: str


@dataclass(frozen=True)
class QueueView:
    """The jobs of a run as the scheduler lists them.

    Attributes:
        scheduler: its name, as shown to the user.
        queue: jobs that are queued or running; None without an answer.
        silence: why there is no answer, or "".
        unknown: whether unlisted jobs may be queued or running, because the scheduler does not answer.
        ends: the failed jobs.

    """

    scheduler: str
    queue: tuple[QueuedJob, ...] | None = None
    silence: str = ""
    unknown: bool = False
    ends: tuple[End, ...] = ()


@dataclass(frozen=True)
class CallStatus:
    """A single command that was queued as a separate job.

    Attributes:
        name: of the job, as in "lens-report".
        folder: from which it was queued.
        scheduler: its name, as shown to the user.
        job: its id.
        state: complete (exit code 0), running, waiting (in the queue), stopped (any other end, or it has vanished),
            unknown (the scheduler does not answer).
        reason: why it is pending, by the scheduler, or "".
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
        """Whether the state is final."""
        return self.state in ("complete", "stopped")


@dataclass(frozen=True)
class Cluster(ABC):
    """One way to start workers: a frozen dataclass whose fields are its flags.

    A cluster with a queue sets `queues` and overrides the last three methods too.
    """

    name: ClassVar[str]
    """Its value of --cluster."""
    queues: ClassVar[bool] = False
    """Whether its jobs outlive the command that submitted them, and can be queued behind others."""

    def prepare(self, stage: str, device: str | None) -> None:  # noqa: B027 (most have nothing to prepare)
        """Called before the job of a stage is loaded, which takes seconds; what takes as long may start meanwhile.

        `device` is that of its workers as the user chose it, None if they need none.
        """

    @abstractmethod
    def check(self, request: WorkerRequest) -> None:
        """Raises InputError if the cluster cannot be reached or cannot provide the workers; called first."""

    @abstractmethod
    def default_workers(self, request: WorkerRequest) -> int:
        """Returns the number of workers without --workers."""

    def fewer_workers(self, request: WorkerRequest, missing: int) -> str:
        """Returns why so many missing shards get fewer workers by default than processors would allow, or ""."""
        return ""

    @abstractmethod
    def submit(self, run: RunFolder, request: WorkerRequest, after: Sequence[RunFolder] = ()) -> Submission:
        """Start workers for the missing shards of a run, or queue them behind the jobs of the runs `after`.

        Raises InputError if the cluster cannot be reached or refuses.
        """

    def attach(self, run: RunFolder, request: WorkerRequest) -> Submission | None:
        """Returns the workers of this run that an earlier command submitted and that are still queued or running.

        `request` is that of this command. Raises InputError if the cluster does not answer: they may be there.
        """
        return None

    def without_effect(self, request: WorkerRequest) -> list[str]:
        """Returns the flags of this cluster that have no effect on such workers, each with the reason."""
        return []

    def plan_text(self, stage: str, request: WorkerRequest, missing: int, out: Path) -> str:
        """Returns what `submit` would pass to the scheduler for so many missing shards, for --plan; "" if nothing."""
        return ""

    def view(self, run: RunFolder, living: Collection[str]) -> QueueView | None:
        """Returns the jobs of a run with a folder `submissions`, where clusters with a queue keep their files.

        None if it was submitted to another cluster. `living`: logs of living workers.
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
        """Queue one call on a node without a GPU, and return its label. `calls_in` finds it again.

        Args:
            name: of the job.
            folder: for its files; each call gets a separate subfolder.
            function: takes the flags and returns an exit code.
            flags: the argument.
            after: runs whose jobs must end first.

        """
        raise NotImplementedError

    def calls_in(self, folder: Path) -> Iterable[CallStatus]:
        """Yields the calls that were queued from a folder; for each name only the latest."""
        return ()
