"""The code that runs on the nodes: each task of an array element is one worker."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from jobs.worker import WorkerOptions, WorkerReport, job_of, run_worker
from storage_layouts.runs import RunFolder

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

STARTED = "LENSCORE_STARTED"
"""Environment variable: start of the batch script, Unix seconds. A requeued job gets its full time again."""


@dataclass
class Element:
    """One array element, with one worker for each task. submitit pickles it, calls it, and calls its `checkpoint`.

    A worker has no state to save: the next attempt continues from the receipts. So a job that ends by its time limit or
    by preemption is requeued unchanged, without a limit, as long as it finishes shards.

    Attributes:
        run: the run folder.
        options: of every worker.
        part: the slice of the first task; the others follow.
        parts: number of slices, over all tasks of all elements.
        minutes: the time limit.
        notice: seconds before the time limit at which SLURM sends the signal.

    """

    run: Path
    options: WorkerOptions
    part: int
    parts: int
    minutes: int
    notice: int

    def __call__(self) -> WorkerReport:
        """Run a worker until no shard is left or the time is nearly up; then requeue through submitit."""
        from submitit import JobEnvironment

        environment = JobEnvironment()
        rank = environment.global_rank
        take_own_gpu(environment.local_rank, self.options.device)
        notice = _Notice(rank)
        try:
            report = run_worker(
                self.run,
                self.options,
                self.part + rank,
                self.parts,
                str(environment.paths.stderr),
                deadline=self._notice_from(),
                stop=lambda: notice.given,
            )
            if report.out_of_time and not notice.given:
                if not report.finished and not report.failed:
                    return dataclasses.replace(report, refused=self._too_slow())
                if rank:
                    # submitit requeues from the first task only, which may have ended.
                    subprocess.run(["scontrol", "requeue", environment.raw_job_id], timeout=60, check=False)
                else:
                    signal.raise_signal(JobEnvironment._usr_sig())  # as if SLURM had sent it: checkpoint and requeue
        except _NotRequeuedError as error:
            if self._is_stuck():
                return WorkerReport(refused=self._too_slow())
            return WorkerReport(broken=str(error))
        return report

    def checkpoint(self) -> DelayedSubmission | None:
        """Returns the function that submitit requeues; None if the next attempt would fail in the same way."""
        from submitit.core.utils import DelayedSubmission

        return None if self._is_stuck() else DelayedSubmission(self)

    def _end(self) -> float:
        """Returns the time at which SLURM will kill the job."""
        end = os.environ.get("SLURM_JOB_END_TIME")  # since 23.02
        return float(end or float(os.environ.get(STARTED) or _PROCESS_BEGAN) + 60 * self.minutes)

    def _notice_from(self) -> float:
        """Returns the earliest time of the signal: by SLURM's manual up to a minute early; half of it was observed."""
        return self._end() - self.notice - min(60, 30 * self.minutes)

    def _is_stuck(self) -> bool:
        """Whether the whole time limit was too short for one shard. A preempted job is not stuck."""
        if time.time() < self._notice_from() - 5:
            return False
        return not any(line["event"] in ("finished", "failed") for line in self._worker_log())

    def _too_slow(self) -> str:
        job = job_of(RunFolder.open(self.run))
        begun = [line["shard"] for line in self._worker_log() if line["event"] == "started"]
        what = f"shard {begun[-1]} did not finish" if begun else "not one shard was begun"
        flag = job.shard_size.replace("_", "-")
        return (
            f"{self.run}: {what} within --time {self.minutes} (minutes) on {socket.gethostname()}; "
            f"raise --time, or start a run with a smaller --{flag}"
        )

    def _worker_log(self) -> list[dict[str, Any]]:
        """Returns the log lines of this process; in an earlier attempt of the job another one may have had its pid."""
        lines = RunFolder.open(self.run).attempts_log(f"{socket.gethostname()}-{os.getpid()}-*")
        return [line for line in lines if line["time"] >= _PROCESS_BEGAN]


@dataclass(frozen=True)
class Call:
    """One call of a command as a job that ends with the command's exit code."""

    function: Callable[[list[str]], int]
    flags: tuple[str, ...]

    def __call__(self) -> None:
        """Call it. Raises SystemExit, which submitit passes on, for an exit code other than 0."""
        code = self.function(list(self.flags))
        if code:
            raise SystemExit(code)


_PROCESS_BEGAN = time.time()


class _NotRequeuedError(BaseException):
    """submitit did not requeue the job. Not an Exception, which would count as a failure of the shard."""


class _Notice:
    """A handler of SLURM's signal before a time limit or a preemption, around that of submitit.

    The first task calls submitit's handler, which requeues the job and exits. The other tasks begin no further shard;
    SLURM ends them together with the first.
    """

    def __init__(self, rank: int) -> None:
        self.given = False
        self._rank = rank
        from submitit import JobEnvironment

        number = JobEnvironment._usr_sig()
        self._submitits: Any = signal.getsignal(number)
        signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.given = True
        if self._rank:
            return
        signal.signal(number, signal.SIG_IGN)  # preemption sends it more than once
        try:
            self._submitits(number, frame)
        except Exception as error:
            raise _NotRequeuedError(f"the job received the signal to end, and was not requeued: {error}") from error


def take_own_gpu(local_rank: int, device: str) -> None:
    """Restrict this task to one of the visible GPUs: without binding by SLURM, all tasks of a node see all GPUs."""
    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if device == "spread":
        return  # it uses all GPUs of the element
    if len(visible) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[local_rank % len(visible)]
    elif not visible and device == "cuda" and "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(local_rank)  # a cluster that hides no GPUs
