"""Queries to SLURM: queued jobs, partitions, the largest array. None of them needs accounting."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator, Sequence

from launch.clusters.cluster import QueuedJob
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder

SCHEDULER = "SLURM"
ANSWER_SECONDS = 20.0
PATIENCE_SECONDS = 60.0
"""Timeout of the queries before a submission: a busy controller is slow, and without an answer the command ends."""
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
}
"""Final states; a requeued job is PENDING again."""


class SilentError(InputError):
    """SLURM's controller does not answer; the state of the jobs is unknown."""


class QueueEntry(QueuedJob):
    """One array element, or one job without an array."""

    @property
    def ended(self) -> bool:
        """Whether its state is final; that of a requeued job is not."""
        return self.state in ENDED

    @property
    def array(self) -> str:
        """The id that `scancel` and dependencies take for the whole array."""
        return self.job.partition("_")[0]


def job_name(stage: str, run_id: str) -> str:
    """Returns the name of the jobs of a run."""
    return f"lens-{stage}-{run_id}"


def queue_of(run: RunFolder) -> list[QueueEntry]:
    """Returns the queued or running jobs of a run. Raises InputError without SLURM or an answer."""
    return [entry for entry in jobs_of(run, PATIENCE_SECONDS) if not entry.ended]


def jobs_of(run: RunFolder, seconds: float = 5.0) -> list[QueueEntry]:
    """Returns the jobs of a run in SLURM's queue, which also lists ended jobs for some minutes.

    Raises InputError without SLURM on this machine, and SilentError if it does not answer in time.
    """
    entries = read_queue(ask(queue_question(job_name(run.stage, run.run_id)), seconds))
    # Jobs of copies of a run in other folders have the same name.
    arrays = {array for array in {entry.array for entry in entries} if _was_submitted_by(run, array)}
    return [entry for entry in entries if entry.array in arrays]


def queue_question(name: str, *flags: str) -> list[str]:
    """Returns the command whose output `read_queue` parses: the jobs of a name, one line for each array element."""
    return ["squeue", "--noheader", "--array", "--states=all", f"--name={name}", *flags, "--format=%i|%T|%N|%r"]


def read_queue(answer: str) -> list[QueueEntry]:
    """Returns all jobs in the output of squeue."""
    lines = (line.split("|") for line in answer.splitlines())
    return [QueueEntry(*line) for line in lines if len(line) == 4]


def _was_submitted_by(run: RunFolder, array: str) -> bool:
    return any((run.path / "submissions").glob(f"*/{array}_submission.sh"))


def partitions() -> dict[str, int | None]:
    """Returns the time limits of the partitions in minutes (None: no limit), the default partition first.

    Raises InputError if SLURM does not answer.
    """
    found: dict[str, int | None] = {}
    for line in ask(["sinfo", "--noheader", "--all", "--format=%P|%l"]).splitlines():
        name, _, limit = line.strip().partition("|")
        entry = {name.removesuffix("*"): minutes_of(limit)}
        found = entry | found if name.endswith("*") else found | entry
    return found


def max_array_size() -> int:
    """Returns the largest number of elements of an array. Raises InputError if SLURM does not answer."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask(["scontrol", "show", "config"]), re.MULTILINE)
    return int(found[1]) if found else 1001  # SLURM's own default


def minutes_of(text: str) -> int | None:
    """Returns a time limit in minutes, rounded up; None if the text is no time limit.

    Formats of sbatch: minutes, M:SS, H:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if found is None:
        return None
    days, *parts = (int(part) if part else 0 for part in found.groups())
    if found[1] or found[4]:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, parts[:2]
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return -(-total // 60)


def ask(command: list[str], seconds: float = ANSWER_SECONDS) -> str:
    """Run a command of SLURM and return its output.

    Raises InputError if it is not installed, and SilentError if it fails or takes too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise InputError(
            f"--cluster slurm: there is no {command[0]} on this machine's PATH; "
            "run this on a login node, or use --cluster local"
        ) from None
    except subprocess.TimeoutExpired:
        raise SilentError(f"{command[0]}: SLURM's controller did not answer in {seconds:.0f} s; try again") from None
    if done.returncode:
        raise SilentError(f"{command[0]}: {one_line(done.stderr)}")
    return done.stdout


def one_line(words: str) -> str:
    """Returns the error output of a SLURM command as one line, without the names of programs."""
    lines = [re.sub(r"^(\w+: )?(error|fatal): ", "", line.strip()) for line in words.strip().splitlines()]
    return "; ".join(dict.fromkeys(filter(None, lines))) or "no error message"


def jobs_behind(runs: Sequence[RunFolder]) -> dict[str, str]:
    """Returns the dependency on the jobs of these runs. Not afterok, which waits for ever after a failure."""
    arrays = {entry.array for run in runs for entry in queue_of(run)}
    return {"dependency": "afterany:" + ":".join(sorted(arrays, key=int))} if arrays else {}


@contextlib.contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hide the job in which this command itself runs, if any: sbatch would inherit its memory and cores."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if key.startswith(("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")) and key != "SLURM_CONF"
    }
    for key in inherited:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(inherited)
