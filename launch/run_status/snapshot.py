"""How far a run is, as plain data; `launch.run_status.reading` reads it from the run folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from launch.clusters.cluster import QueuedJob

State = Literal["complete", "running", "planning", "waiting", "stopped", "unknown"]


@dataclass(frozen=True)
class WorkerSeen:
    """A worker, or a command that launches workers, that has not ended in good order, by its last heartbeat."""

    worker: str
    role: Literal["worker", "launcher"]
    host: str
    pid: int
    device: str
    gpu: str
    """Its CUDA_VISIBLE_DEVICES."""
    shard: int | None
    alive: bool
    silent_seconds: float
    log: str


@dataclass(frozen=True)
class FailedShard:
    """A shard that raised and has no receipt; `quarantined` if nobody will try it again by itself."""

    shard: int
    tries: int
    quarantined: bool
    worker: str
    host: str
    time: float
    error: str
    """Last line of the traceback."""
    traceback: str
    log: str


@dataclass(frozen=True)
class LastError:
    """The latest thing that went wrong; `shard` is None if it was the worker itself."""

    error: str
    shard: int | None
    worker: str
    time: float
    log: str
    mended: bool
    """Whether the shard was done since."""
    permanent: bool
    """Whether a worker refused its input or cannot run here: another one would end in the same way."""


@dataclass(frozen=True)
class DeadWorker:
    """A worker that ended badly; `log` is "" where it could write none."""

    worker: str
    error: str
    log: str
    time: float


@dataclass(frozen=True)
class RunStatus:
    """A snapshot of a run. Every shard is in exactly one of the five states.

    Attributes:
        path: the run folder.
        stage: "extract", "analyze", ...
        run_id: of the run.
        state: complete; running (a worker is alive); planning (somebody is alive, and there is no plan yet); waiting
            (for workers: jobs are in the queue, or the command that launches is alive); stopped (nobody is alive);
            unknown (no sign of life in the folder, and the scheduler to which it was submitted does not answer).
        planned: whether it has a plan; without one there are no shards yet.
        items: in all.
        items_done: those of the done shards.
        items_under_way: computed by living workers, of shards that are not done yet.
        doing: what a worker says of its work, as in "loss 2.31" or "loading"; "" if nothing.
        shards: in all.
        done: number of shards with a receipt.
        running: shards that a living worker computes.
        failed: shards that raised and have no receipt, unless one is being tried again.
        stale: shards of silent or dead workers.
        pending: number of shards that nobody has taken.
        items_per_second: of the living workers now, from their last shards; else of all that was done, over the time in
            which anybody computed.
        seconds_left: by that rate; None if nobody is alive or nothing is finished yet.
        bytes: written so far, by the plan and the done shards.
        seconds_spent: of workers on attempts, finished, failed or going on, by kind: gpu, cpu, unknown.
        workers: those with a heartbeat, and the commands that launch them.
        scheduler: the name of the queue to which it was submitted, or "".
        queue: the jobs of this run in it; None where nobody can be asked.
        silence: why the scheduler could not be asked for them, or "".
        dead: workers that ended badly, by their worker logs and what the scheduler has in its own files,
            in order of time.
        last_error: the latest failure, whether or not it was mended since.
        changed: when the last file of the run changed, Unix seconds.
        time: when this was read, by the best guess at the file system's clock.

    """

    path: Path
    stage: str
    run_id: str
    state: State
    planned: bool
    items: int
    items_done: int
    items_under_way: int
    doing: str
    shards: int
    done: int
    running: tuple[int, ...]
    stale: tuple[int, ...]
    failed: tuple[FailedShard, ...]
    pending: int
    items_per_second: float | None
    seconds_left: float | None
    bytes: int
    seconds_spent: dict[str, float]
    workers: tuple[WorkerSeen, ...]
    scheduler: str
    queue: tuple[QueuedJob, ...] | None
    silence: str
    dead: tuple[DeadWorker, ...]
    last_error: LastError | None
    changed: float
    time: float

    @property
    def complete(self) -> bool:
        """Whether every shard is done."""
        return self.state == "complete"

    @property
    def alive(self) -> int:
        """Number of living workers."""
        return sum(worker.alive and worker.role == "worker" for worker in self.workers)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen by itself, as far as can be seen."""
        return self.state in ("complete", "stopped")

    @property
    def given_up(self) -> bool:
        """Whether only shards are left that nobody will try again by itself."""
        aside = sum(failure.quarantined for failure in self.failed)
        return self.planned and 0 < aside == self.shards - self.done

    @property
    def quiet_seconds(self) -> float:
        """For how long nothing has changed."""
        return max(0.0, self.time - self.changed)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        content = asdict(self) | {"path": str(self.path), "quiet_seconds": round(self.quiet_seconds, 1)}
        return content | {name: list(content[name]) for name in ("running", "stale", "failed", "workers", "dead")}
