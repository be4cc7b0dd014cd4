"""Errors with a message for the user: it names the file or field, what was found, and what to do."""

from __future__ import annotations

import difflib
import pickle
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def first_line(error: BaseException) -> str:
    """The message of another library's error, in one line."""
    message = _COLOURS.sub("", str(error)).strip()
    if isinstance(error, pickle.UnpicklingError) and "weights_only" in message:  # torch suggests to run the code
        code = re.search(r"GLOBAL (\S+)", message)
        return f"it holds code{f' ({code[1]})' if code else ''} and not plain tensors alone; nothing of it was run"
    return message.splitlines()[0] if message else type(error).__name__


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns "; did you mean X?" for the known word most like this one, or "" if none is similar."""
    found = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {found[0]}?" if found else ""


class InputError(Exception):
    """Invalid input. The message (one line, or a small table) is shown without a traceback; exit code 2."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that was given to the library does not exist.

    Also a FileNotFoundError, which the latentlens library raises and its users' scripts catch.
    """


class IncompleteError(InputError):
    """A run or store has shards without a receipt; repeating its command continues it."""


class CorruptError(InputError):
    """A file is missing, or its content is not what was written.

    Attributes:
        file: path of the file.
        found: what was found.
        expected: what was expected.
        remedy: what to do, or "".

    """

    def __init__(self, file: object, found: object = "", expected: object = "", remedy: str = "") -> None:
        self.file, self.found, self.expected, self.remedy = str(file), str(found), str(expected), remedy
        # All four as args, so that the error can be pickled.
        super().__init__(self.file, self.found, self.expected, self.remedy)

    def __str__(self) -> str:
        comparison = f": found {self.found}, expected {self.expected}" if self.expected else self.found
        return self.file + comparison + (f"; {self.remedy}" if self.remedy else "")


class MachineError(InputError):
    """The machine could not read or write a file; the file may be intact.

    Never a reason to delete anything: when the machine works again, the same command continues.

    Attributes:
        file: path of the file.
        cause: for example "cannot read: too many open files".
        remedy: what to do.

    """

    def __init__(self, file: object, cause: str, remedy: str) -> None:
        self.file, self.cause, self.remedy = str(file), cause, remedy
        # All three as args, so that the error can be pickled.
        super().__init__(self.file, self.cause, self.remedy)

    def __str__(self) -> str:
        return f"{self.file}: {self.cause}; {self.remedy}"


@contextmanager
def naming_store(store: Path) -> Iterator[None]:
    """Adds to the remedy of damage in a store where that is to be done, as another command than its own reads it."""
    try:
        yield
    except CorruptError as error:
        remedy = f"in {store}, {error.remedy} that made it" if error.remedy else ""
        raise CorruptError(error.file, error.found, error.expected, remedy) from None
