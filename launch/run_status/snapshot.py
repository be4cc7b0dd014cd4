"""The status of a run as plain data; `launch.run_status.reading` reads it from the run folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from launch.clusters.cluster import QueuedJob

State = Literal["complete", "running", "planning", "waiting", "stopped", "unknown"]


@dataclass(frozen=True, kw_only=True)
class WorkerSeen:
    """A worker, or a command that launches workers, by its last heartbeat; one that ended normally has none."""

    worker: str = ""
    role: Literal["worker", "launcher"]
    host: str = ""
    pid: int = 0
    device: str = ""
    gpu: str = ""
    """Its CUDA_VISIBLE_DEVICES."""
    shard: int | None = None
    alive: bool
    silent_seconds: float
    log: str = ""


@dataclass(frozen=True, kw_only=True)
class FailedShard:
    """A shard that raised and has no receipt; `quarantined` if it is only tried again with --retry-failed."""

    shard: int
    tries: int
    quarantined: bool
    worker: str = ""
    host: str = ""
    time: float = 0.0
    error: str
    """Last line of the traceback."""
    traceback: str = ""
    log: str = ""


@dataclass(frozen=True, kw_only=True)
class LastError:
    """The latest error; `shard` is None if it was an error of the worker."""

    error: str
    shard: int | None = None
    worker: str = ""
    time: float = 0.0
    log: str = ""
    mended: bool
    """Whether the shard has been finished since."""
    permanent: bool
    """Whether the error would repeat: a worker refused its input or cannot run here."""


@dataclass(frozen=True)
class DeadWorker:
    """A failed worker; `log` is "" if it could not write one."""

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
        state: complete; running (a worker is alive); planning (a process is alive, and there is no plan yet); waiting
            (for workers: jobs are queued, or the command that launches them is alive); stopped (no process is alive);
            unknown (no recent heartbeat, and the scheduler does not answer).
        planned: whether it has a plan; without one there are no shards yet.
        items: in all.
        items_done: those of the done shards.
        items_under_way: computed by living workers, of shards that are not done yet.
        doing: what a worker reports about its work, as in "loss 2.31" or "loading", or "".
        shards: in all.
        done: number of shards with a receipt.
        running: shards that a living worker computes.
        failed: shards that raised and have no receipt, unless one is being tried again.
        stale: shards of silent or dead workers.
        pending: number of all other shards.
        items_per_second: of the living workers, from their last shards; without any, of the whole run, over the time in
            which at least one worker computed.
        seconds_left: at that rate; None without living workers or finished shards.
        bytes: written so far, by the plan and the done shards.
        seconds_spent: of workers on finished, failed and current attempts, by kind: gpu, cpu, unknown.
        workers: those with a heartbeat, and the commands that launch them.
        scheduler: to which it was submitted, or "".
        queue: its jobs; None without an answer.
        silence: why there is no answer, or "".
        dead: failed workers in order of time, by their logs and the files of the scheduler.
        last_error: the latest error, whether or not it has been fixed since.
        changed: time of the last change of a file of the run, Unix seconds.
        time: of this snapshot, an estimate of the file system's clock.

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
        """Whether the state is final, as far as is known."""
        return self.state in ("complete", "stopped")

    @property
    def given_up(self) -> bool:
        """Whether only quarantined shards are left."""
        quarantined = sum(failure.quarantined for failure in self.failed)
        return self.planned and 0 < quarantined == self.shards - self.done

    @property
    def quiet_seconds(self) -> float:
        """Seconds since the last change."""
        return max(0.0, self.time - self.changed)

    def to_json(self) -> dict[str, Any]:
        """Returns the status as plain JSON."""
        return asdict(self) | {"path": str(self.path), "quiet_seconds": round(self.quiet_seconds, 1)}
