"""In place of Python in jobs of the test cluster, as their --python: the worker is forked where torch is imported.

This process is what SLURM starts, signals and kills; the worker gets each signal that it gets, and ends with it, as it
ends with the worker. Whatever else is asked of Python is Python's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT)


def main() -> int:
    """Be a worker, and end as it did."""
    from tests.forked_workers import ADDRESS, Forked, ask

    worker = Forked(ask(os.environ[ADDRESS], sys.argv[2:], dict(os.environ), [0, 1, 2], leaves=True))

    def forward(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, number)

    for number in FORWARDED:
        signal.signal(number, forward)
    code = worker.wait()
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    if sys.argv[1:4] != ["-u", "-m", "submitit.core._submit"]:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    sys.path[0] = str(Path(__file__).parents[2])
    sys.exit(main())
