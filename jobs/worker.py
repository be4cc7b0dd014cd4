"""The worker process: `python -m jobs.worker RUN --device cpu --part 0/2`.

Everything it needs stands in the run folder, so any scheduler can start it anywhere that sees the folder. Exit codes:
0 all its shards are done, 1 some failed, 2 refused (one line on standard output says why).
"""

from __future__ import annotations

import argparse
import importlib
import os
import socket
import sys
import threading
from pathlib import Path

import pydantic

from jobs.base import Job, work
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder

JOBS = {"extract": "ExtractJob", "analyze": "AnalyzeJob", "judge": "JudgeJob"}
"""The stages, by the name in run.json, which is also the name of their module in `jobs`."""


def job_of(run: RunFolder) -> Job:
    """The job that a run folder was made for, rebuilt from its configuration."""
    if run.stage not in JOBS:
        raise InputError(f"{run.path}: holds a {run.stage!r} run, expected one of {', '.join(JOBS)}")
    # Only this stage's module: a judge needs no torch.
    job_type = getattr(importlib.import_module(f"jobs.{run.stage}"), JOBS[run.stage])
    return pydantic.TypeAdapter(job_type).validate_python({**run.config, "out": run.path})


def main(argv: list[str] | None = None) -> int:
    """Compute a share of the shards of a run on one device; what is done is left as it is."""
    parser = argparse.ArgumentParser(prog="python -m jobs.worker", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--device", default="cpu", help="torch device, as in cuda:0")
    parser.add_argument("--part", default="0/1", help="which share of the shards, as in 0/2")
    parser.add_argument("--leave-with-parent", action="store_true", help="end when standard input closes")
    arguments = parser.parse_args(argv)
    if arguments.leave_with_parent:
        threading.Thread(target=_leave_with_parent, daemon=True).start()
    index, count = (int(number) for number in arguments.part.split("/"))
    try:
        run = RunFolder.open(arguments.run)
        job = job_of(run)
        # A share of all shards, not of the missing ones: those are fewer for a worker that starts later.
        done = run.done()
        shards = [shard for shard in run.require_plan().shards()[index::count] if shard.index not in done]
        name = f"{socket.gethostname()}-{os.getpid()}"
        failed = work(run, shards, lambda: job.open_worker(run, arguments.device), name)
    except InputError as refusal:
        print(refusal)
        return 2
    return 1 if failed else 0


def _leave_with_parent() -> None:
    """Standard input is a pipe from the launcher: it closes when the launcher is gone, however it went."""
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
