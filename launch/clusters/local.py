"""The local cluster: worker processes on this machine, one a GPU, or one a core where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder

POLL_SECONDS = 0.1


@dataclass
class _Process:
    popen: subprocess.Popen[str]
    log: Path


def launch_local(
    run: RunFolder, workers: int | None, device: str, watch: Callable[[], None], needs_device: bool = True
) -> list[Path]:
    """Start workers for the missing shards, wait until all have ended, and return the logs of those that failed.

    `workers` None means one a GPU (`device` "auto" or "cuda"), or one a core (on "cpu"). `watch` is called some times
    a second. Raises InputError with the worker's own words if one refuses its input. The workers end with this
    process, even if it is killed.
    """
    missing = len(run.missing())
    devices = _devices(device) if needs_device else ["cpu"]
    count = min(missing, workers or (len(devices) if devices[0] != "cpu" else _cores()))
    processes = [_start(run, i, count, devices[i % len(devices)]) for i in range(count)]
    try:
        while any(process.popen.poll() is None for process in processes):
            watch()
            time.sleep(POLL_SECONDS)
    finally:
        for process in processes:
            if process.popen.poll() is None:
                process.popen.terminate()
    watch()
    for process in processes:
        assert process.popen.stdout is not None
        message = process.popen.stdout.read().strip()
        if process.popen.wait() == 2 and message:
            raise InputError(message)
    return [process.log for process in processes if process.popen.returncode]


def _start(run: RunFolder, index: int, count: int, device: str) -> _Process:
    environment = dict(os.environ, TOKENIZERS_PARALLELISM="false", PYTHONUNBUFFERED="1")
    if device.startswith("cuda:"):
        number = device.removeprefix("cuda:")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        # The n-th of the devices that this process may see, which need not be the machine's n-th.
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(number)] if visible else number
        device = "cuda:0"
    else:
        # One thread a worker: how many threads share a sum must not decide its last bit.
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    logs = run.path / "attempts"
    logs.mkdir(exist_ok=True)
    log = logs / f"local-{os.getpid()}-{index:02d}.log"
    with log.open("ab") as stream:
        popen = subprocess.Popen(
            [
                *(sys.executable, "-m", "jobs.worker", str(run.path), "--device", device),
                *("--part", f"{index}/{count}", "--leave-with-parent"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            env=environment,
            text=True,
        )
    return _Process(popen, log)


def _devices(device: str) -> list[str]:
    import torch  # heavy, and of no use to a stage that needs no device

    gpus = torch.cuda.device_count()
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda":
        if not gpus:
            raise InputError("--device cuda: this machine shows no CUDA device; expected cpu or auto")
        return [f"cuda:{i}" for i in range(gpus)]
    return [device]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
