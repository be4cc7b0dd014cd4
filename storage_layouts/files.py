"""Crash-safe files: a path holds either nothing or all bytes of one writer, never a part of them.

Every file is written under a temporary name, flushed to the disk and renamed; then its folder is flushed too. So a
process may be killed, or a machine may lose its power, at any moment.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from storage_layouts.errors import CorruptError, InputError, MachineError
from storage_layouts.machine_errors import reading_expected, writing

LEFTOVER_SUFFIX = ".partial"  # of temporary names; a killed writer leaves such files behind
READ_BYTES = 1 << 24
NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


@dataclass(frozen=True)
class FileDigest:
    """Size and checksum of a file.

    Attributes:
        bytes: size.
        crc32: the CRC-32 of zip and gzip as eight lower-case hex digits. Not CRC-32C: the chunks of a Zarr shard are
            each followed by their CRC-32C, so the CRC-32C of the whole file depends only on its size, and any two
            shards of one size would be equal.
        chunks: for a Zarr shard, of each layer in it the CRC-32 of its chunk checksums and the table at the end. A
            reader that compares each chunk with its CRC-32C, which is several times faster, needs only this digest.

    """

    bytes: int
    crc32: str
    chunks: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return f"{self.bytes} bytes, crc32 {self.crc32}"


def digest_bytes(data: bytes) -> FileDigest:
    """Digest of bytes in memory."""
    return FileDigest(len(data), f"{zlib.crc32(data):08x}")


def digest_file(path: Path) -> FileDigest:
    """Digest of a file. OSError if it cannot be read."""
    size, crc = 0, 0
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            size += len(piece)
            crc = zlib.crc32(piece, crc)
    return FileDigest(size, f"{crc:08x}")


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot flush folders
            raise
    finally:
        os.close(descriptor)


def sync_tree(paths: Iterable[Path | str]) -> None:
    """Flush files that other libraries wrote, and then each of their folders once, to the disk."""
    folders = set()
    for path in map(Path, paths):
        with writing(path):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        folders.add(path.parent)
    for folder in sorted(folders):
        sync_folder(folder)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents so that their names survive a power cut."""
    if folder.is_dir():
        return
    with writing(folder):
        if folder.parent != folder:
            make_folder(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except FileNotFoundError as error:  # such as /proc, or a parent that was removed at this moment
            raise MachineError(folder, "cannot write: no folder can be made here", "choose another folder") from error
        sync_folder(folder.parent)


def require_place(folder: Path) -> None:
    """Raises InputError unless a folder can be created or written to. Nothing is written.

    For a check before hours of work; a later write may still fail.
    """
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    with writing(above):
        if not above.is_dir():
            raise FileExistsError(errno.EEXIST, "a file")
        if not os.access(above, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, "no permission")


def require_own_folder(folder: Path, *patterns: str) -> None:
    """Raises InputError if an output folder is a file, or holds other names than leftovers and these patterns."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file; choose a new or empty folder")
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    others = [name for name in names if not is_leftover(name) and not any(fnmatch(name, one) for one in patterns)]
    if others:
        raise InputError(f"{folder}: not empty (it holds {min(others)!r}); choose a new or empty folder")


def name_aside(path: Path) -> Path:
    """A unique temporary path beside ``path``; see `is_leftover`."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex}{LEFTOVER_SUFFIX}"


class NewFile(io.RawIOBase):
    """A file that is being written in pieces under a temporary name beside its path.

    Attributes:
        path: its path in the end.
        aside: the temporary path.

    """

    def __init__(self, path: Path, aside: Path) -> None:
        self.path, self.aside = path, aside
        self._bytes = self._crc = 0
        with writing(path):
            self._descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    @property
    def digest(self) -> FileDigest:
        """Digest of the bytes that `write` has written so far."""
        return FileDigest(self._bytes, f"{self._crc:08x}")

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: Any) -> int:
        """Append bytes, all of them. MachineError if the disk is full, and the like."""
        rest = view = memoryview(data)
        with writing(self.path):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        self._bytes, self._crc = self._bytes + len(view), zlib.crc32(view, self._crc)
        return len(view)

    def write_at(self, data: memoryview, offset: int) -> None:
        """Write bytes at a place of their own, which `digest` does not count; several threads may."""
        with writing(self.path):
            while data:
                count = os.pwrite(self._descriptor, data, offset)
                data, offset = data[count:], offset + count

    def sync(self) -> None:
        """Flush the bytes to the disk."""
        with writing(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the descriptor."""
        if not self.closed:
            super().close()
            with writing(self.path):
                os.close(self._descriptor)


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[NewFile]:
    """A new file under a temporary name beside ``path``, which is removed at the end."""
    make_folder(path.parent)
    aside = name_aside(path)
    try:
        with NewFile(path, aside) as file:
            yield file
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(path: Path, flush: bool = True) -> Iterator[NewFile]:
    """A file to write in pieces, so that its path never shows a part of it; see `write_atomic`.

    It gets its name at the end of the block. If the block raises, the file is removed.
    """
    with _aside(path) as file:
        yield file
        if flush:
            file.sync()
        file.close()
        with writing(path):
            file.aside.replace(path)
            if flush:
                sync_folder(path.parent)


def write_atomic(path: Path, data: bytes, flush: bool = True) -> FileDigest:
    """Write a whole file so that its path never shows a part of it. The last writer wins.

    Folders are created as needed. When this returns, content and name are on the disk, unless ``flush`` is False (for
    logs, which may be lost with the machine). MachineError if the disk is full, read-only, and the like.
    """
    with atomic_file(path, flush) as file:
        file.write(data)
    return file.digest


def publish_first(path: Path, data: bytes, flush: bool = True) -> bool:
    """Write a whole file unless it already exists. The first writer wins, also between machines.

    When this returns, the file is on the disk, unless ``flush`` is False. Returns True if this call wrote it.
    """
    if path.exists():
        return False
    with _aside(path) as file, writing(path):
        file.write(data)
        if flush:
            file.sync()
        file.close()
        try:
            os.link(file.aside, path)
            ours = True
        except FileExistsError:
            ours = False
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            # A file system without hard links (some object-store mounts): of two writers within the same
            # millisecond both may get True; the file is still whole.
            ours = not path.exists()
            if ours:
                file.aside.replace(path)
        if flush:
            # Also for the second writer: its next writes must not reach the disk before the name they rely on.
            sync_folder(path.parent)
    return ours


def is_leftover(name: str) -> bool:
    """Whether a file name is a temporary name, which an interrupted write leaves behind."""
    return name.startswith(".") and name.endswith(LEFTOVER_SUFFIX)


def check_size(path: Path, digest: FileDigest, remedy: str = "") -> None:
    """Raises CorruptError if a file is missing or has another size, MachineError if the machine cannot tell."""
    with reading_expected(path, digest, remedy):
        size = path.stat().st_size
    if size != digest.bytes:
        raise CorruptError(path, f"{size} bytes", digest, remedy)


def check_file(path: Path, digest: FileDigest, remedy: str = "") -> None:
    """Raises CorruptError (with ``remedy``) if a file is missing or changed, MachineError if it cannot be read."""
    check_size(path, digest, remedy)
    with reading_expected(path, digest, remedy):
        found = digest_file(path)
    if found != digest:
        raise CorruptError(path, found, digest, remedy)


def read_checked(path: Path, digest: FileDigest, remedy: str = "") -> bytes:
    """Read a file and compare it with its digest. Raises the same errors as `check_file`."""
    check_size(path, digest, remedy)
    data = read_expected(path, digest, remedy)
    found = digest_bytes(data)
    if found != digest:
        raise CorruptError(path, found, digest, remedy)
    return data


def read_expected(path: Path, expected: object, remedy: str = "") -> bytes:
    """Bytes of a file. CorruptError if it is missing, MachineError if it cannot be read."""
    with reading_expected(path, expected, remedy):
        return path.read_bytes()


def canonical_json(content: Any, indent: int | None = None) -> bytes:
    """The JSON text of a value with sorted keys, ASCII only. ValueError or TypeError for NaN and other types."""
    return json.dumps(content, sort_keys=True, indent=indent, allow_nan=False).encode("ascii")


def json_bytes(content: dict[str, Any]) -> bytes:
    """Text of a JSON file with a checksum of its content in the field ``crc32``."""
    if "crc32" in content:
        raise ValueError("the field 'crc32' is the file's own checksum")
    checksum = digest_bytes(canonical_json(content)).crc32
    return canonical_json({**content, "crc32": checksum}, indent=1) + b"\n"


def write_json(path: Path, content: dict[str, Any]) -> FileDigest:
    """Write a dict as canonical JSON with a checksum, atomically."""
    return write_atomic(path, json_bytes(content))


def parse_json(path: Path, data: bytes, remedy: str = "") -> dict[str, Any]:
    """The dict in a file of ``json_bytes``, without its checksum. CorruptError if any byte was changed.

    The comparison with the canonical text also detects a changed blank, a duplicate key or another spelling of a
    number; a checksum of the parsed content would not.
    """
    expected = "canonical JSON with its own crc32"
    try:
        content = json.loads(data)
        checksum = content.pop("crc32")
        again = json_bytes(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CorruptError(path, f"{len(data)} bytes of other content ({reason})", expected, remedy) from None
    if again != data:
        actual = json.loads(again)["crc32"]
        raise CorruptError(path, f"changed bytes (crc32 {actual}, recorded {checksum})", expected, remedy)
    return content


def read_json(path: Path, remedy: str = "") -> dict[str, Any]:
    """Read a file of ``write_json``. Raises as `parse_json` and `read_expected`."""
    return parse_json(path, read_expected(path, "a JSON file", remedy), remedy)
