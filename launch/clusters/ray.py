"""The Ray cluster: one actor a worker, inside `ray job submit` or with `--ray-address`.

The rounds of `launch.stages` are the retry policy, so Ray itself repeats no call. A worker whose process or node is
lost is replaced by a new actor; what it had in hand, the others have taken over by then.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from jobs.worker import WorkerOptions
from launch.clusters.cluster import Cluster, WorkerRequest
from launch.clusters.ray_connection import Connection, WorkerSize, connect, note, one_line, probe
from storage_layouts.errors import InputError
from storage_layouts.files import make_folder
from storage_layouts.processes import unique_name
from storage_layouts.runs import RunFolder

POLL_SECONDS = 0.2
SECONDS_BETWEEN_NOTES = 10.0
LOSSES_IN_A_ROW = 3
"""How often a worker is replaced without a single shard done between, by whomever."""
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""In the environment of what `ray job submit` started; its folder is a copy of `--working-dir`, or any."""
PASSED_ON = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT")
"""Where models are looked for: Ray gives its workers the environment of the node, not that of the command."""


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
        """InputError if no cluster answers, for a size that no worker can have, or a relative path in a Ray job."""
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
        """As many as the cluster holds."""
        connection = connect(self.ray_address)
        try:
            return max(1, connection.room_for(self._size(request)))
        finally:
            connection.close()

    def without_effect(self, request: WorkerRequest) -> list[str]:
        """GPUs for workers that use none."""
        if request.options.device == "cpu" and self.gpus_per_worker:
            return [f"--gpus-per-worker {self.gpus_per_worker:g} had no effect: --device cpu uses no GPU"]
        return []

    def submit(self, run: RunFolder, request: WorkerRequest, after: Sequence[RunFolder] = ()) -> RaySubmission:
        """Start the workers: by default as many as the cluster holds, and no more than shards are missing.

        Raises InputError if no cluster answers, or if no node could ever hold a worker of this size.
        """
        size, options = self._size(request), request.options
        if request.needs_device and options.device == "auto":
            # Never a silent CPU where a GPU was asked for: a worker that is told "cuda" and finds none refuses.
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
        # What a worker would not use must not be reserved, nor be asked of a node.
        return WorkerSize(self.cpus_per_worker, gpus if request.needs_device and device != "cpu" else 0)


class RaySubmission:
    """Actors that this process has started; see `launch.clusters.cluster.Submission`."""

    cancel = ""
    survives = False
    ignored: tuple[str, ...] = ()

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
        """Wait until all have ended; one that is lost is replaced."""
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
        # An actor answers one call after the other: the first when it has a place, the second when its work is over.
        placed = actor.host.remote()
        report = actor.work.remote(str(self._run.path.resolve()), self._options, part, self._parts, str(log))
        return _Worker(part, log, actor, placed, report)

    def _went_well(self, worker: _Worker) -> bool:
        """Look at a worker that has ended, and replace it if it was lost. InputError if it refused its input."""
        import ray

        try:
            report = ray.get(worker.report)
        except ray.exceptions.RayError as error:
            loss = f"worker {worker.part} was lost: {one_line(error)}"
            note(loss)
            # It may have been lost before it could write anything.
            with worker.log.open("a") as log:
                print(loss, file=log)
            self._replace(worker)
            return False
        finally:
            # An actor keeps its place until it is gone: one that ended from those that wait, one out of reach from
            # its successor.
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
        """Whether those that are left will have something to do; says so if some of them have no place yet."""
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
            f"{len(waiting)} of {self._parts} workers wait for a place: each asks for {self._size}, "
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
    """What has to stand in a worker's environment before it starts."""
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if not device.startswith(("cuda", "spread")):
        # One thread a worker: how many threads share a sum must not decide its last bit.
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**environment, "TOKENIZERS_PARALLELISM": "false"}


def _worker_type() -> type:
    """The actors' class. Made in a function, so that Ray ships its code: a node without lenscore can then say so."""

    class LensWorker:
        """One worker of a run. What it takes and gives is plain data, for the same reason."""

        def host(self) -> str:
            """Answer as soon as there is a place."""
            return socket.gethostname()

        def work(self, run: str, options: dict[str, Any], part: int, parts: int, log: str) -> dict[str, Any]:
            """Compute shards until none is left; returns the fields of a WorkerReport."""
            import dataclasses
            import os
            import sys
            from pathlib import Path

            node = f"the Ray node {socket.gethostname()}"
            if not Path(run, "run.json").is_file():
                return {"refused": f"{run}: {node} does not see this folder; expected one that all nodes share"}
            # Ray's own log lies on the disk of the node, and is lost with it.
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
