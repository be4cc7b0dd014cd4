"""Questions to SLURM: who is queued, which partitions there are, how large an array may be. Never needs accounting."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder

SCHEDULER = "SLURM"
ANSWER_SECONDS = 20.0
PATIENCE_SECONDS = 60.0
"""How long a command that submits waits for the queue: a busy controller is slow, and no answer ends the command."""
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
}
"""States that a job does not leave; a requeued job is PENDING again."""


class SilentError(InputError):
    """SLURM's controller does not answer, which says nothing about the jobs."""


@dataclass(frozen=True)
class QueueEntry:
    """One array element, or one job without an array.

    Attributes:
        job: its id, as in "17_3".
        state: in SLURM's words, as in "RUNNING".
        node: where it runs, or "".
        reason: why it waits, in SLURM's words, or "None".

    """

    job: str
    state: str
    node: str
    reason: str

    @property
    def ended(self) -> bool:
        """Whether it is done for, well or badly; a requeued job is not."""
        return self.state in ENDED

    @property
    def array(self) -> str:
        """The id that `scancel` and dependencies take for the whole array."""
        return self.job.partition("_")[0]


def job_name(stage: str, run_id: str) -> str:
    """What the jobs of a run are called in the queue."""
    return f"lens-{stage}-{run_id}"


def queue_of(run: RunFolder) -> list[QueueEntry]:
    """The jobs of a run that are queued or running. InputError if SLURM is not here or does not answer."""
    return [entry for entry in jobs_of(run, PATIENCE_SECONDS) if not entry.ended]


def jobs_of(run: RunFolder, seconds: float = 5.0) -> list[QueueEntry]:
    """The jobs of a run that SLURM knows, for some minutes also those that have ended.

    InputError if there is no SLURM here, SilentError if it does not answer in time: that is not an empty queue.
    """
    entries = read_queue(ask(queue_question(job_name(run.stage, run.run_id)), seconds))
    # Two folders may hold the same run, and then their jobs have the same name.
    arrays = {array for array in {entry.array for entry in entries} if _was_submitted_by(run, array)}
    return [entry for entry in entries if entry.array in arrays]


def queue_question(name: str, *flags: str) -> list[str]:
    """The command whose answer `read_queue` reads: the jobs of a name, array elements one by one."""
    return ["squeue", "--noheader", "--array", "--states=all", f"--name={name}", *flags, "--format=%i|%T|%N|%r"]


def read_queue(answer: str) -> list[QueueEntry]:
    """All jobs that SLURM names: those that have not ended, and for some minutes those that have."""
    lines = (line.split("|") for line in answer.splitlines())
    return [QueueEntry(*line) for line in lines if len(line) == 4]


def _was_submitted_by(run: RunFolder, array: str) -> bool:
    return any((run.path / "submissions").glob(f"*/{array}_submission.sh"))


def partitions() -> dict[str, int | None]:
    """The partitions of the cluster, the default one first, with their time limits in minutes (None: without limit).

    Raises InputError if SLURM does not answer.
    """
    found: dict[str, int | None] = {}
    for line in ask(["sinfo", "--noheader", "--all", "--format=%P|%l"]).splitlines():
        name, _, limit = line.strip().partition("|")
        entry = {name.removesuffix("*"): minutes_of(limit)}
        found = entry | found if name.endswith("*") else found | entry
    return found


def max_array_size() -> int:
    """How many elements one array may have. InputError if SLURM does not answer."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask(["scontrol", "show", "config"]), re.MULTILINE)
    return int(found[1]) if found else 1001  # SLURM's own default


def minutes_of(text: str) -> int | None:
    """A time limit in minutes, rounded up, from what sbatch takes: minutes, M:SS, H:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS.

    None if it is none.
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
    """Run a command of SLURM and return what it prints.

    InputError if it is not there, SilentError if it fails or takes too long.
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
    """What a command of SLURM printed, without the names of the program, in one line."""
    lines = [re.sub(r"^(\w+: )?(error|fatal): ", "", line.strip()) for line in words.strip().splitlines()]
    return "; ".join(dict.fromkeys(filter(None, lines))) or "no words of its own"


def jobs_behind(runs: Sequence[RunFolder]) -> dict[str, str]:
    """Wait for the end of the jobs of these runs, good or bad: afterok would wait for ever after one failure."""
    arrays = {entry.array for run in runs for entry in queue_of(run)}
    return {"dependency": "afterany:" + ":".join(sorted(arrays, key=int))} if arrays else {}


@contextlib.contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hide the job that this command itself runs in, if any: sbatch would hand its memory and cores on."""
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
