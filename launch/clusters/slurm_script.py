"""Lines of the batch script around the workers: a failing --setup ends the job, a Python that cannot start is named.

What they refuse stands in the log behind `launch.clusters.logs.REFUSED`, and the job ends with exit code 2, as a worker
does that refuses its input.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from launch.clusters.logs import REFUSED

# A trap, since a line may end the script itself. Above 127 it was a signal: the job is cancelled or queued again.
_TRAP = (
    'trap \'LENS_CODE=$?; if [ -n "$LENS_STEP" ] && [ "$LENS_CODE" -lt 128 ]; then '
    f'echo "{REFUSED}$LENS_STEP ended with exit code $LENS_CODE on $(hostname)" >&2; exit 2; fi\' EXIT'
)
_NEEDED = "submitit, pydantic, jobs, launch"
"""What must be there before a worker can say anything itself."""


def checked(setup: Sequence[str]) -> list[str]:
    """Shell lines, each of which ends the job if it fails."""
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
    """Shell lines after the workers: if they failed, look whether this Python can run one at all."""
    return [
        "LENS_CODE=$?",
        'if [ "$LENS_CODE" -ne 0 ] && [ "$LENS_CODE" -lt 128 ]; then',
        f"  LENS_WORDS=$({python} -c {shlex.quote(f'import {_NEEDED}')} 2>&1) || {{",
        f"    echo {shlex.quote(f'{REFUSED}--python {python} cannot run a worker')}"
        " \"on $(hostname): ${LENS_WORDS##*$'\\n'}\" >&2; LENS_CODE=2; }",
        "fi",
        'exit "$LENS_CODE"',
    ]
