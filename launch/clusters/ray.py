"""The Ray cluster: one actor for each worker, inside `ray job submit` or with `--ray-address`.

The rounds of `launch.stages` are the retry policy, so Ray retries no call. A worker whose process or node is lost is
replaced by a new actor, and the other workers take over its shard.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from jobs.worker import WorkerOptions
from launch.clusters.cluster import Cluster, Submission, WorkerRequest
from launch.clusters.ray_connection import Connection, WorkerSize, connect, note, one_line, probe
from storage_layouts.errors import InputError
from storage_layouts.files import make_folder
from storage_layouts.processes import unique_name
from storage_layouts.runs import RunFolder

POLL_SECONDS = 0.2
SECONDS_BETWEEN_NOTES = 10.0
LOSSES_IN_A_ROW = 3
"""How often a worker is replaced while no worker finishes a shard."""
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable inside `ray job submit`, where the current folder may be a temporary copy."""
PASSED_ON = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT")
"""Environment variables that workers need; Ray gives them the environment of the node, not that of the command."""


@dataclass(frozen=True)
class RayCluster(Cluster):
    """Actors on a running Ray cluster."""

    name: ClassVar[str] = "ray"

    ray_address: str | None = None
    """HOST:PORT of the cluster, as `ray start --head` prints it; by default RAY_ADDRESS (`ray job submit` sets it)."""
    gpus_per_worker: float | None = None
    """GPUs (or the fraction of one) of a worker whose stage needs a device; by default 1, or 0 with --device cpu."""
    cpus_per_worker: float = 1.0
    """CPUs that Ray sets aside for each worker."""
    ray_grows: bool = False
    """The cluster adds nodes on demand: wait for them, even if no node of today could hold a worker."""

    def check(self, request: WorkerRequest) -> None:
        """Raises InputError if no cluster answers, for an invalid size, or for a relative path in a Ray job."""
        self._size(request)
        if IN_A_JOB in os.environ:
            relative = {flag: path for flag, path in request.paths.items() if not path.is_absolute()}
            if relative:
                whole = [f"{flag.partition(' ')[0]} /SHARED/{path}" for flag, path in relative.items()]
                raise InputError(
                    f"{', '.join(relative)}: relative to {Path.cwd()}, where Ray started this job on "
                    f"{socket.gethostname()} and what is written may be deleted; expected whole paths on a disk that "
                    f"all nodes share, as in {' '.join(whole)}"
                )
        probe(self.ray_address)

    def default_workers(self, request: WorkerRequest) -> int:
        """Returns the number of workers that fit into the cluster."""
        with contextlib.closing(connect(self.ray_address)) as connection:
            return max(1, connection.room_for(self._size(request)))

    def without_effect(self, request: WorkerRequest) -> list[str]:
        """Returns --gpus-per-worker for workers that use no GPU."""
        if request.options.device == "cpu" and self.gpus_per_worker:
            return [f"--gpus-per-worker {self.gpus_per_worker:g} had no effect: --device cpu uses no GPU"]
        return []

    def submit(self, run: RunFolder, request: WorkerRequest, after: Sequence[RunFolder] = ()) -> RaySubmission:
        """Start the workers: by default as many as fit into the cluster, at most one for each missing shard.

        Raises InputError if no cluster answers, or if a worker of this size fits into no node.
        """
        size, options = self._size(request), request.options
        if request.needs_device and options.device == "auto":
            # Not "auto", which falls back to the CPU: a worker on "cuda" without a GPU fails at once.
            options = replace(options, device="cuda" if size.gpus else "cpu")
        connection = connect(self.ray_address)
        try:
            room = connection.room_for(size)
            if not room and not self.ray_grows:
                raise InputError(connection.no_room_for(size))
            workers = request.workers or max(1, room)
            if run.plan is not None:
                workers = min(workers, len(run.missing()))
            return RaySubmission(run, options, workers, size, connection, self.ray_grows)
        except BaseException:
            connection.close()
            raise

    def _size(self, request: WorkerRequest) -> WorkerSize:
        gpus, device = self.gpus_per_worker, request.options.device
        if not self.cpus_per_worker > 0:
            raise InputError(f"--cpus-per-worker: found {self.cpus_per_worker:g}, expected a number above 0")
        if gpus is None:
            gpus = float(device in ("auto", "cuda", "spread"))
        if not gpus >= 0 or (gpus > 1 and gpus % 1):
            raise InputError(f"--gpus-per-worker: found {gpus:g}, expected a fraction of one GPU or a whole number")
        if device in ("cuda", "spread") and not gpus:
            raise InputError(
                f"--device {device} with --gpus-per-worker 0: Ray hides every GPU then; expected more than 0"
            )
        # Workers reserve no GPU that they do not use.
        return WorkerSize(self.cpus_per_worker, gpus if request.needs_device and device != "cpu" else 0)


class RaySubmission(Submission):
    """Actors of this process; see `launch.clusters.cluster.Submission`."""

    def __init__(
        self,
        run: RunFolder,
        options: WorkerOptions,
        workers: int,
        size: WorkerSize,
        connection: Connection,
        grows: bool,
    ) -> None:
        import ray

        self.label = f"{workers} workers on the Ray cluster at {connection.address}"
        self._run, self._parts, self._size = run, workers, size
        self._connection, self._grows = connection, grows
        self._options = {**asdict(options), "after": [str(path) for path in options.after]}
        self._actor_type = ray.remote(_worker_type()).options(
            num_cpus=size.cpus,
            num_gpus=size.gpus,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": _environment(options.device)},
        )
        logs = run.path.resolve() / "attempts"
        make_folder(logs)
        self._log = f"{logs}/ray-{unique_name()}"
        self._losses = [0] * workers
        self._done_at_loss = [0] * workers
        self._next_note = time.monotonic() + SECONDS_BETWEEN_NOTES
        self._left = [self._start(part) for part in range(workers)]

    def wait(self, watch: Callable[[], None]) -> list[Path]:
        """Wait until all have ended, and replace those that are lost."""
        import ray

        failed: set[Path] = set()
        try:
            while self._left:
                watch()
                ready, _ = ray.wait([worker.report for worker in self._left], timeout=POLL_SECONDS)
                for worker in [worker for worker in self._left if worker.report in ready]:
                    self._left.remove(worker)
                    if not self._went_well(worker):
                        failed.add(worker.log)
                if time.monotonic() > self._next_note and not self._worth_waiting():
                    break
            watch()
        finally:
            self._connection.close()
        return sorted(failed)

    def _start(self, part: int) -> _Worker:
        actor = self._actor_type.remote()
        log = Path(f"{self._log}-{part:02d}.log")
        # An actor runs its calls in order: the first returns when it is placed, the second when it has ended.
        placed = actor.host.remote()
        report = actor.work.remote(str(self._run.path.resolve()), self._options, part, self._parts, str(log))
        return _Worker(part, log, actor, placed, report)

    def _went_well(self, worker: _Worker) -> bool:
        """Whether an ended worker succeeded; replaces a lost one. Raises InputError if it refused its input."""
        import ray

        try:
            report = ray.get(worker.report)
        except ray.exceptions.RayError as error:
            loss = f"worker {worker.part} was lost: {one_line(error)}"
            note(loss)
            # The worker may have been lost before it created its log.
            with worker.log.open("a") as log:
                print(loss, file=log)
            self._replace(worker)
            return False
        finally:
            # An actor holds its resources until it is killed, also one that has ended or is out of reach.
            ray.kill(worker.actor)
        if report["refused"]:
            raise InputError(report["refused"])
        return not (report["failed"] or report["broken"])

    def _replace(self, worker: _Worker) -> None:
        part, done = worker.part, len(self._run.done())
        self._losses[part] = self._losses[part] + 1 if done == self._done_at_loss[part] else 1
        self._done_at_loss[part] = done
        if self._losses[part] <= LOSSES_IN_A_ROW and self._run.unfinished():
            self._left.append(self._start(part))

    def _worth_waiting(self) -> bool:
        """Whether the remaining workers may still find work; notes those that are not placed yet."""
        import ray

        self._next_note = time.monotonic() + SECONDS_BETWEEN_NOTES
        placed, waiting = ray.wait([worker.placed for worker in self._left], num_returns=len(self._left), timeout=0)
        if not waiting:
            return True
        if not placed and not self._run.unfinished():
            return False
        if not placed and not self._grows and not self._connection.room_for(self._size):
            note(self._connection.no_room_for(self._size))
            return False
        note(
            f"{len(waiting)} of {self._parts} workers wait for a place: each needs {self._size}, "
            f"free in the whole cluster are {self._connection.free()}"
        )
        return True


@dataclass
class _Worker:
    part: int
    log: Path
    actor: Any
    placed: Any
    report: Any


def _environment(device: str) -> dict[str, str]:
    """Returns the environment variables with which a worker starts."""
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if not device.startswith(("cuda", "spread")):
        # One thread a worker: the order of a sum, and so its last bit, depends on the number of threads.
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**environment, "TOKENIZERS_PARALLELISM": "false"}


def _worker_type() -> type:
    """Returns the class of the actors. Ray pickles a local class by value, so a node without lenscore can load it."""

    class LensWorker:
        """One worker of a run. Its arguments and results are plain data for the same reason."""

        def host(self) -> str:
            """Returns the host name, once the actor is placed."""
            return socket.gethostname()

        def work(self, run: str, options: dict[str, Any], part: int, parts: int, log: str) -> dict[str, Any]:
            """Compute shards until none is left, and return the fields of a WorkerReport."""
            import dataclasses
            import os
            import sys
            from pathlib import Path

            node = f"the Ray node {socket.gethostname()}"
            if not Path(run, "run.json").is_file():
                return {"refused": f"{run}: {node} does not see this folder; expected one that all nodes share"}
            # Ray writes its log to the disk of the node, which may be lost.
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            try:
                from jobs.worker import WorkerOptions, run_worker
            except ImportError as error:
                where = f"{node} cannot import lenscore with {sys.executable} ({error})"
                return {"refused": f"{where}; expected it in the environment that `ray start` ran in"}
            after = tuple(Path(path) for path in options["after"])
            report = run_worker(Path(run), WorkerOptions(**{**options, "after": after}), part, parts, log)
            if report.broken:
                print(report.broken, file=sys.stderr)
            return dataclasses.asdict(report)

    return LensWorker
