"""Lines of the batch script around the workers, which check --setup and --python.

An error is written to the log behind `launch.clusters.logs.REFUSED`, and the job ends with exit code 2, like a worker
that refuses its input.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from launch.clusters.logs import REFUSED

# A trap, since a line may end the script. Codes above 127 are signals: the job is cancelled or requeued.
_TRAP = (
    'trap \'LENS_CODE=$?; if [ -n "$LENS_STEP" ] && [ "$LENS_CODE" -lt 128 ]; then '
    f'echo "{REFUSED}$LENS_STEP ended with exit code $LENS_CODE on $(hostname)" >&2; exit 2; fi\' EXIT'
)
_NEEDED = "submitit, pydantic, jobs, launch"
"""Modules without which a worker cannot report an error."""


def checked(setup: Sequence[str]) -> list[str]:
    """Returns the shell lines of --setup, made to end the job if one fails."""
    if not setup:
        return []
    lines = [_TRAP]
    for line in setup:
        lines += [
            f"LENS_STEP={shlex.quote(f'--setup {shlex.quote(line)}')}",
            line,
            'LENS_CODE=$?; [ "$LENS_CODE" -eq 0 ] || exit "$LENS_CODE"',
        ]
    return [*lines, "LENS_STEP="]


def autopsy(python: str) -> list[str]:
    """Returns the shell lines after the workers, which check whether this Python can run a worker if one failed."""
    return [
        "LENS_CODE=$?",
        'if [ "$LENS_CODE" -ne 0 ] && [ "$LENS_CODE" -lt 128 ]; then',
        f"  LENS_WORDS=$({python} -c {shlex.quote(f'import {_NEEDED}')} 2>&1) || {{",
        f"    echo {shlex.quote(f'{REFUSED}--python {python} cannot run a worker')}"
        " \"on $(hostname): ${LENS_WORDS##*$'\\n'}\" >&2; LENS_CODE=2; }",
        "fi",
        'exit "$LENS_CODE"',
    ]
