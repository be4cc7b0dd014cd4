"""The local cluster: worker processes on this machine, one for each GPU; without a GPU one for each core that fits."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.filesize import decimal

from jobs.worker import LEFT, WorkerOptions, settle_device
from jobs.worker_server import LATER, MODELS, ForkedWorker, WorkerServer
from launch.clusters.cluster import Cluster, Submission, WorkerRequest
from launch.cores import cores
from storage_layouts.counts import counted
from storage_layouts.errors import InputError
from storage_layouts.files import make_folder
from storage_layouts.free_memory import available_bytes
from storage_layouts.runs import RunFolder

POLL_SECONDS = 0.1
GPUS = ("nvidia[0-9]*", "kfd", "dxg")
"""Files in /dev of which one is there on a Linux machine with a GPU."""

_server: WorkerServer | None = None
"""The process that workers of this process's commands are forked from."""


@dataclass(frozen=True)
class Local(Cluster):
    """Processes on this machine; there are no settings."""

    name: ClassVar[str] = "local"

    def prepare(self, stage: str, device: str | None) -> None:
        """Start the process that workers without a GPU are forked from; it imports while the job is loaded."""
        if sys.platform != "linux" or not _computes_on_cpu(device):
            return
        global _server
        if _server is None or not _server.runs():
            modules = [f"jobs.{stage}_job", *LATER, *(MODELS if device else ())]
            _server = WorkerServer(modules, _environment("cpu"))

    def check(self, request: WorkerRequest) -> None:
        """Raises InputError if this machine does not have the device."""
        _devices(request)

    def default_workers(self, request: WorkerRequest) -> int:
        """Returns the number of GPUs; without a GPU that of cores, or of workers that fit into the memory if fewer."""
        devices = _devices(request)
        if devices != ["cpu"]:
            return len(devices)
        each = request.worker_bytes()
        return cores() if each is None else min(cores(), _fitting(each, available_bytes()))

    def fewer_workers(self, request: WorkerRequest, missing: int) -> str:
        """Returns the number of workers, what each needs and what there is, if the memory limits them."""
        if request.workers is not None or _devices(request) != ["cpu"] or (each := request.worker_bytes()) is None:
            return ""
        free = available_bytes()
        if each * min(cores(), missing) <= free:
            return ""
        return (
            f"{counted(_fitting(each, free), 'worker')} on {counted(cores(), 'core')}: each needs about "
            f"{decimal(each)} of memory, and {decimal(free)} are free; --workers sets another number"
        )

    def submit(self, run: RunFolder, request: WorkerRequest, after: Sequence[RunFolder] = ()) -> LocalSubmission:
        """Start the workers, at most one for each missing shard. They end with this process, even if it is killed."""
        devices = _devices(request)
        count = min(len(run.missing()), request.workers or self.default_workers(request))
        logs = run.path / "attempts"
        make_folder(logs)
        started = f"local-{os.getpid()}-{time.time_ns() // 1_000_000:x}"
        return LocalSubmission(
            [
                _start(run, request.options, i, count, devices[i % len(devices)], logs / f"{started}-{i:02d}.log")
                for i in range(count)
            ]
        )


@dataclass
class _Process:
    popen: subprocess.Popen[str] | ForkedWorker
    log: Path


class LocalSubmission(Submission):
    """Child processes that are workers; see `launch.clusters.cluster.Submission`."""

    def __init__(self, processes: list[_Process]) -> None:
        self._processes = processes
        self.label = f"{len(processes)} processes on this machine"

    def wait(self, watch: Callable[[], None]) -> list[Path]:
        """Wait until all have ended. The shards of one that dies are computed by the others."""
        try:
            while any(process.popen.poll() is None for process in self._processes):
                watch()
                time.sleep(POLL_SECONDS)
        finally:
            for process in self._processes:
                if process.popen.poll() is None:
                    process.popen.terminate()
                    with process.log.open("a") as log:
                        print(LEFT, file=log)
        watch()
        for process in self._processes:
            assert process.popen.stdout is not None
            message = process.popen.stdout.read().strip()
            if process.popen.wait() == 2 and message:
                raise InputError(message)
        return [process.log for process in self._processes if process.popen.returncode]


def _start(run: RunFolder, options: WorkerOptions, index: int, count: int, device: str, log: Path) -> _Process:
    environment = _environment(device)
    arguments = [str(run.path), "--device", "cuda:0" if device.startswith("cuda:") else device]
    arguments += ["--part", f"{index}/{count}", "--stale-after", str(options.stale_after), "--log", str(log)]
    arguments += [] if options.index_memory is None else ["--index-memory", str(options.index_memory)]
    arguments += ["--leave-with-parent", "--after", *map(str, options.after)]
    with log.open("ab") as stream:
        if device == "cpu" and _server is not None:
            with contextlib.suppress(OSError):  # the server has ended
                return _Process(_server.start(arguments, environment, stream), log)
        popen = subprocess.Popen(
            [sys.executable, "-m", "jobs.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            env=environment,
            text=True,
        )
    return _Process(popen, log)


def _environment(device: str) -> dict[str, str]:
    """Returns the environment of a worker on a torch device, which a GPU is the only one of."""
    environment = dict(os.environ, TOKENIZERS_PARALLELISM="false", PYTHONUNBUFFERED="1")
    if device.startswith("cuda:"):
        number = device.removeprefix("cuda:")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        # An index into the devices visible to this process, which may be a subset of the machine's.
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(number)] if visible else number
    else:
        # One thread a worker: the order of a sum, and so its last bit, depends on the number of threads.
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return environment


def _computes_on_cpu(device: str | None) -> bool:
    """Whether workers will compute on the CPU, as far as this is seen without PyTorch."""
    if device == "auto":
        return not any(any(Path("/dev").glob(name)) for name in GPUS)
    return device in ("cpu", None)


def _devices(request: WorkerRequest) -> list[str]:
    """Returns the devices of the requested kind that this process may use, by their torch names."""
    if not request.needs_device:
        return ["cpu"]
    import torch  # heavy, and not used by stages without a device

    settled = settle_device(request.options.device)
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] if settled.startswith("cuda") else [settled]


def _fitting(each: int, free: int) -> int:
    """Returns how many workers fit into the free memory; one is always tried."""
    return max(1, free // each)
