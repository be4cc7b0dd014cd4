"""Errors of the operating system as errors of one line: what the machine refused, and what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from storage_layouts.errors import CorruptError, MachineError

MACHINE_CAUSES = {
    errno.EMFILE: ("too many open files", "raise the limit (ulimit -n) and repeat the command"),
    errno.ENFILE: ("too many open files on this machine", "end other programs, then repeat the command"),
    errno.ENOMEM: ("not enough memory", "free some memory, then repeat the command"),
    errno.EIO: (
        "input/output error of the disk or network",
        "check the disk or its mount, then repeat the command",
    ),
    errno.ESTALE: ("the network file system lost the file", "check the mount, then repeat the command"),
    errno.ETIMEDOUT: ("the network file system does not answer", "check the mount, then repeat the command"),
    errno.ENOSPC: ("disk full", "free some space or choose another folder, then repeat the command"),
    errno.EDQUOT: ("disk quota exceeded", "free some space or choose another folder, then repeat the command"),
    errno.EROFS: ("read-only file system", "choose a folder that can be written"),
}
"""Error numbers whose cause is the machine and not the file: cause and remedy."""
_READ_REFUSALS = {
    **MACHINE_CAUSES,
    errno.EACCES: ("permission denied", "allow this user to read it, then repeat the command"),
    errno.EPERM: ("operation not permitted", "allow this user to read it, then repeat the command"),
}
_WRITE_REFUSALS = {
    **MACHINE_CAUSES,
    errno.EFBIG: ("file too large for this file system or limit", "raise the limit (ulimit -f) or use another disk"),
    errno.EACCES: ("permission denied", "choose a folder that you may write"),
    errno.EPERM: ("operation not permitted", "choose a folder that you may write"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another folder"),
    errno.EEXIST: ("a file is in the place of a folder", "choose another folder"),
    errno.EISDIR: ("a folder is in the place of the file", "move the folder away"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
}
_MISSING = {
    FileNotFoundError: "no such file",
    NotADirectoryError: "no such file",
    IsADirectoryError: "a folder in the place of the file",
}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises MachineError for a full or read-only disk, no permission, and the like. Other OSErrors pass through."""
    try:
        yield
    except OSError as error:
        if error.errno not in _WRITE_REFUSALS:
            raise
        cause, remedy = _WRITE_REFUSALS[error.errno]
        raise MachineError(path, f"cannot write: {cause}", remedy) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises MachineError for any OSError but those of a missing file, which pass through."""
    try:
        yield
    except tuple(_MISSING):
        raise
    except OSError as error:
        unknown = (error.strerror or str(error), "repeat the command when the machine can read it")
        cause, remedy = _READ_REFUSALS.get(error.errno or 0, unknown)
        raise MachineError(path, f"cannot read: {cause} (nothing is known to be damaged)", remedy) from error


@contextlib.contextmanager
def reading_expected(path: Path, expected: object, remedy: str) -> Iterator[None]:
    """Like `reading`, for a file that must exist: CorruptError if it does not."""
    try:
        with reading(path):
            yield
    except tuple(_MISSING) as error:
        raise CorruptError(path, _MISSING[type(error)], expected, remedy) from None


@contextlib.contextmanager
def unless_removed(path: Path) -> Iterator[None]:
    """Like `reading`, for a file that another process may remove at any moment: its absence is ignored."""
    try:
        with reading(path):
            yield
    except FileNotFoundError:
        pass
    except MachineError as error:
        # A network file system reports this for a file that another machine removed during the read.
        if getattr(error.__cause__, "errno", None) != errno.ESTALE:
            raise


def refuse_machine_error(path: Path, error: OSError) -> None:
    """Raises MachineError if the cause is the machine (`MACHINE_CAUSES`), so that the file is not called damaged."""
    if error.errno in MACHINE_CAUSES:
        cause, remedy = MACHINE_CAUSES[error.errno]
        raise MachineError(path, f"cannot read: {cause}", remedy) from error
