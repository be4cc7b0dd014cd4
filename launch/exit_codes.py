"""Exit codes: 0 complete, 1 incomplete or failed, 2 wrong usage or refused input, 130 stopped by Ctrl-C."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from launch.terminal import print_err
from storage_layouts.errors import CorruptError, InputError, MachineError
from storage_layouts.machine_errors import MACHINE_CAUSES


class DetachedByUser(KeyboardInterrupt):
    """The user stopped waiting with Ctrl-C, and the jobs continue."""


def exit_code(main: Callable[[], int], goes_on: bool = False) -> int:
    """Run a command; print an InputError or an error of the machine as one message and return exit code 2.

    `goes_on` says whether the repeated command computes only what is missing.
    """
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
    except DetachedByUser:
        return 130
    except KeyboardInterrupt:
        print_err("stopped; repeat the command to go on" if goes_on else "stopped; the repeated command begins again")
        return 130


def _refused(refusal: InputError) -> int:
    print_err(f"error: {refusal}", style="red")
    return 2
