"""The errors a user may meet: each message names the file or field, what was found, and what to do."""

from __future__ import annotations

import pickle
import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def first_line(error: BaseException) -> str:
    """What an error of somebody else's code says, in one line for a message of ours."""
    said = _COLOURS.sub("", str(error)).strip()
    if isinstance(error, pickle.UnpicklingError) and "weights_only" in said:  # torch advises to run the code
        code = re.search(r"GLOBAL (\S+)", said)
        return f"it holds code{f' ({code[1]})' if code else ''} and not plain tensors alone; nothing of it was run"
    return said.splitlines()[0] if said else type(error).__name__


class InputError(Exception):
    """Refused input or a user's mistake.

    The message is shown as it is (one line, or a small table), without a traceback; exit code 2.
    """


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that a caller of the library named is not there.

    It is a FileNotFoundError too: that is what the latentlens library raises, and what scripts written for it catch.
    """


class IncompleteError(InputError):
    """A run or store has shards without a receipt; repeating the command that made it goes on from there."""


class CorruptError(InputError):
    """A file is missing or its bytes are not those that were written.

    Attributes:
        file: the file's path.
        found: what is there.
        expected: what was written.
        remedy: what to do, or "".

    """

    def __init__(self, file: object, found: object = "", expected: object = "", remedy: str = "") -> None:
        self.file, self.found, self.expected, self.remedy = str(file), str(found), str(expected), remedy
        # All four as args, so that the error can travel between processes.
        super().__init__(self.file, self.found, self.expected, self.remedy)

    def __str__(self) -> str:
        comparison = f": found {self.found}, expected {self.expected}" if self.expected else self.found
        return self.file + comparison + (f"; {self.remedy}" if self.remedy else "")


class MachineError(InputError):
    """The machine could not read or write a file, which says nothing about the bytes in it.

    Never a reason to delete anything: when the machine works again, the same command goes on.

    Attributes:
        file: the file's path.
        cause: what the machine says, for example "cannot read: too many open files".
        remedy: what to do.

    """

    def __init__(self, file: object, cause: str, remedy: str) -> None:
        self.file, self.cause, self.remedy = str(file), cause, remedy
        # All three as args, so that the error can travel between processes.
        super().__init__(self.file, self.cause, self.remedy)

    def __str__(self) -> str:
        return f"{self.file}: {self.cause}; {self.remedy}"
