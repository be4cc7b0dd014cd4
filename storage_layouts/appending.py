"""Files to which one writer appends lines: a failed write leaves only whole lines, and disk space is reserved."""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from collections.abc import Callable
from pathlib import Path

from storage_layouts.errors import InputError
from storage_layouts.files import LEFTOVER_SUFFIX, make_folder, sync_folder
from storage_layouts.machine_errors import writing

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_ROOM = f".room{LEFTOVER_SUFFIX}"


def append_lines(descriptor: int, data: bytes) -> None:
    """Append whole lines to a file that has no other writer.

    If the disk becomes full within a line, the incomplete line is truncated, so that the next one does not join it; the
    lines before it stay. OSError if not everything was written.
    """
    before = os.fstat(descriptor).st_size
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        written = data[: len(data) - len(view)]
        os.ftruncate(descriptor, before + written.rfind(b"\n") + 1)
        raise


class LineFile:
    """A new file with one writer, to which lines are appended; each is on the disk when `append` returns.

    A second file beside it reserves disk space, which is freed when the disk is full and lines must still be written.
    It holds random bytes, because a file system may store zeros without using space; `files.is_leftover` is true of its
    name. It is removed when this process ends normally.

    Args:
        path: the file; created, with its folder, by the first line.
        room: bytes to reserve.

    """

    def __init__(self, path: Path, room: int) -> None:
        self.path = path
        self._room = room
        self._room_path = path.parent / f".{path.name}{_ROOM}"
        self._has_room = False
        self._descriptor: int | None = None
        self._size = 0
        weakref.finalize(self, _remove, self._room_path)

    @property
    def is_new(self) -> bool:
        """Whether no line was appended yet."""
        return self._descriptor is None

    def append(self, data: bytes, keep_room: bool = False) -> None:
        """Append whole lines. With ``keep_room`` the space is reserved first; otherwise it may be freed.

        InputError if the disk is full, read-only, and the like; some of the lines may have been written.
        """
        with writing(self.path):
            if self._descriptor is None:
                make_folder(self.path.parent)
                self._keep_room()
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
                sync_folder(self.path.parent)
            if keep_room:
                self._keep_room()
            left = data
            while left:
                if os.fstat(self._descriptor).st_size != self._size:
                    raise InputError(f"{self.path}: ends in an incomplete line; repeat the command")
                try:
                    append_lines(self._descriptor, left)
                    os.fsync(self._descriptor)
                except OSError as error:
                    if keep_room or error.errno not in DISK_FULL or not self._give_room_up():
                        raise
                finally:
                    whole = left[: os.fstat(self._descriptor).st_size - self._size]
                    if whole.endswith(b"\n"):
                        self._size, left = self._size + len(whole), left[len(whole) :]

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._give_room_up()

    def _keep_room(self) -> None:
        if self._has_room:
            return
        try:
            descriptor = os.open(self._room_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                append_lines(descriptor, os.urandom(self._room))
                os.fsync(descriptor)  # some file systems allocate space only now
            finally:
                os.close(descriptor)
        except BaseException:
            _remove(self._room_path)
            raise
        self._has_room = True

    def _give_room_up(self) -> bool:
        had, self._has_room = self._has_room, False
        _remove(self._room_path)
        return had


def remove_rooms(folder: Path, is_gone: Callable[[str], bool]) -> None:
    """Remove the files with which killed writers reserved space; ``is_gone`` takes the name of a writer's file."""
    for path in folder.glob(f".*{_ROOM}"):
        if is_gone(path.name[1:].removesuffix(_ROOM)):
            path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
