"""Exit codes: 0 complete, 1 incomplete or failed, 2 wrong usage or refused input, 130 and 143 stopped.

The last two, by Ctrl-C and SIGTERM, are those that a shell reports of a command that such a signal has ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from launch.terminal import print_err
from storage_layouts.errors import CorruptError, InputError, MachineError
from storage_layouts.machine_errors import MACHINE_CAUSES


class Terminated(KeyboardInterrupt):
    """The command was ended by SIGTERM, as by a scheduler; what handles Ctrl-C handles it too."""


class DetachedByUser(KeyboardInterrupt):
    """The user stopped waiting with Ctrl-C or SIGTERM (its cause), and the jobs continue."""


def exit_code(main: Callable[[], int], goes_on: bool = False) -> int:
    """Run a command as `refusal_code`; also say in one line that it was stopped by Ctrl-C or SIGTERM.

    `goes_on` says whether the repeated command computes only what is missing.
    """
    try:
        with _terminated_by_signal():
            return refusal_code(main)
    except KeyboardInterrupt as stop:
        by_signal = isinstance(stop.__cause__ or stop, Terminated)
        if not isinstance(stop, DetachedByUser):
            how = "stopped by SIGTERM" if by_signal else "stopped"
            kept = "; what is finished is kept" if by_signal and goes_on else ""
            print_err(
                f"{how}{kept}; {'repeat the command to go on' if goes_on else 'the repeated command begins again'}"
            )
        return 143 if by_signal else 130


def refusal_code(main: Callable[[], int]) -> int:
    """Run a command; print an InputError or an error of the machine as one message and return exit code 2."""
    try:
        try:
            return main()
        finally:
            if sys.stdout:  # None if the command was started with a closed one
                sys.stdout.flush()  # here, where it is known what to do if the reader has exited
    except InputError as refusal:
        return _refused(refusal)
    except BrokenPipeError:  # the reader of the output has exited, like `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (IsADirectoryError, NotADirectoryError) as error:
        what = "a folder in the place of a file" if isinstance(error, IsADirectoryError) else "a file, not a folder"
        return _refused(CorruptError(error.filename, what, "what lenscore writes there", "move it away and repeat"))
    except OSError as error:
        if error.errno not in MACHINE_CAUSES:
            raise
        cause, remedy = MACHINE_CAUSES[error.errno]
        return _refused(MachineError(error.filename or "this command", cause, remedy))


@contextlib.contextmanager
def _terminated_by_signal() -> Iterator[None]:
    """Within the block SIGTERM raises `Terminated`, unless somebody else handles it (submitit, a command around it)."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def terminate(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may be sent again while the command ends
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _refused(refusal: InputError) -> int:
    print_err(f"error: {refusal}", style="red")
    return 2
