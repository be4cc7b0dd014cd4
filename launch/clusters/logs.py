"""Why a worker ended, by its log: the first error of the program, not the last line of the scheduler."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

REFUSED = "lens: refused: "
"""Prefix of a line of the batch script for an error that would repeat; the script then ends with exit code 2."""
READ_BYTES = 1 << 18
"""Read at each end of a log: the first error is near its beginning, a fatal signal near its end."""

_TRACEBACK = "Traceback (most recent call last):"
_SCHEDULER = re.compile(r"^(?:srun|slurm\w*(?:-[\w.-]+)?): (?:error: |fatal: )?")
_EXITED = re.compile(r"tasks? [\d,-]+: Exited with exit code")
_SIGNALLED = re.compile(r"oom.kill|Out Of Memory|CANCELLED AT|tasks? [\d,-]+: (?!Exited with|running)", re.IGNORECASE)
_WORRY = re.compile(r"error|fatal|not found|no such|denied|cannot|unable|failed|quota|read-only|killed", re.IGNORECASE)


@dataclass(frozen=True)
class End:
    """A failed worker.

    Attributes:
        worker: its name at the scheduler, as in "SLURM job 17_3", or the name of the worker.
        error: the reason in one line.
        log: path of its log, or "".
        time: of its end, Unix seconds.
        refused: whether the error would repeat: wrong input, a wrong environment.

    """

    worker: str
    error: str
    log: str
    time: float
    refused: bool = False


def read_log(path: Path | str) -> str:
    """Returns the text of a log, without the middle of a long one; "" if it cannot be read."""
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        text = file.read(READ_BYTES)
        rest = Path(path).stat().st_size - len(text)
        if rest > READ_BYTES:
            file.seek(-READ_BYTES, 2)
            text += b"\n"
        return (text + file.read()).decode(errors="replace")
    return ""


def refusal(text: str) -> str:
    """Returns the error that the batch script reported, or ""."""
    return next((line.removeprefix(REFUSED) for line in text.splitlines() if line.startswith(REFUSED)), "")


def first_error(text: str) -> str:
    """Returns the first error in a log as one line, or "".

    In this order: a refusal, the fatal signal, the first exception, the first line that looks like an error, the
    scheduler's first line.
    """
    if refused := refusal(text):
        return refused
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if not _SCHEDULER.match(line)]
    foreign = [_SCHEDULER.sub("", line) for line in lines if _SCHEDULER.match(line)]
    for line in foreign:
        if _EXITED.search(line):
            break  # the scheduler ends the other tasks because of it
        if _SIGNALLED.search(line):
            hint = " (SIGKILL; often more memory than --memory)" if line.endswith("Killed") else ""
            return line.strip("* ") + hint
    if _TRACEBACK in own:
        after = own[own.index(_TRACEBACK) + 1 :]
        return next((line for line in after if not line[0].isspace()), _TRACEBACK)
    return next(
        (line for line in own if _WORRY.search(line)), next((line for line in foreign if not _EXITED.search(line)), "")
    )


def last_words(text: str) -> str:
    """Returns the first error in a log, else its last line, else a note that it is empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _EXITED.search(line)]
    return first_error(text) or (lines[-1] if lines else "ended without output; killed?")
