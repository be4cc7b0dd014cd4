"""`lens train`: the command line of jobs/train_job.py; draws the curves at the end.

lens train --config olmo-clip --data captions/ --out RUN
accelerate launch --num_processes 4 launch/train.py --config ... --out RUN      # several GPUs
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from jobs.base import STATES
from jobs.train_settings import TrainSettings
from launch.exit_codes import exit_code
from launch.flags import parse
from launch.progress import StageProgress
from launch.stages import Launch, command_of, job_of, run_unless_known
from launch.terminal import Terminal, print_out
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""

    def run() -> int:
        command: Any = parse(command_of(TrainSettings), argv, "lens train")
        out, launch = command.settings.out, command.launch
        # Every process that `accelerate launch` or torchrun has started comes here.
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from jobs.train_job import TrainJob
            from jobs.train_together import train_together

            progress = StageProgress(Terminal(stderr=True), "train")
            with progress if os.environ.get("RANK", "0") == "0" else contextlib.nullcontext():
                return _finish(out, train_together(cast(TrainJob, job_of(command)), launch.device, progress.of))
        command = dataclasses.replace(command, launch=_one_worker(launch))
        return _finish(out, run_unless_known(command), launch.plan)

    return exit_code(run, goes_on=True)


def _one_worker(launch: Launch) -> Launch:
    """Returns the launch with one worker, since the spans of steps are sequential."""
    if launch.workers not in (None, 1):
        raise InputError(
            f"--workers {launch.workers}: a training is one worker; for several GPUs: "
            f"accelerate launch --num_processes {launch.workers} launch/train.py ..."
        )
    return dataclasses.replace(launch, workers=1)


def _finish(out: Path, code: int, plan_only: bool = False) -> int:
    """Draw the curves of a complete run, unless it has them, and delete its training states."""
    if code == 0 and not plan_only and int(os.environ.get("RANK", "0")) == 0:
        run = RunFolder.open(out)
        if run.is_complete():
            from lenscore.training.curves import CURVES, draw_curves

            shutil.rmtree(run.path / STATES, ignore_errors=True)
            curves = [run.path / name for name in CURVES]
            if not all(path.exists() for path in curves):
                curves = draw_curves(run.path)
            print_out("\n".join(map(str, [run.path / "model", *curves])))
    return code


if __name__ == "__main__":
    sys.exit(main())
