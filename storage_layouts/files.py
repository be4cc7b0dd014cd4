"""Crash-safe files: a path holds either nothing, or all the bytes of one writer; never a part of them.

Every write goes aside under a name of its own, is flushed to the disk, gets its final name, and then the
folder is flushed too. So a process may be killed, or a machine lose its power, between any two lines.
"""

from __future__ import annotations

import contextlib
import errno
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

LEFTOVER_SUFFIX = ".partial"  # of the names aside; what a killed writer leaves behind
READ_BYTES = 1 << 24

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
"""What the machine says when it, and not a file, is the trouble; and what to do."""
READ_REFUSALS = {
    **MACHINE_CAUSES,
    errno.EACCES: ("permission denied", "allow this user to read it, then repeat the command"),
    errno.EPERM: ("operation not permitted", "allow this user to read it, then repeat the command"),
}
WRITE_REFUSALS = {
    **MACHINE_CAUSES,
    errno.EFBIG: ("file too large for this file system or limit", "raise the limit (ulimit -f) or use another disk"),
    errno.EACCES: ("permission denied", "choose a folder that you may write"),
    errno.EPERM: ("operation not permitted", "choose a folder that you may write"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another folder"),
    errno.EEXIST: ("a file is in the place of a folder", "choose another folder"),
    errno.EISDIR: ("a folder is in the place of the file", "move the folder away"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
}
MISSING = {
    FileNotFoundError: "no such file",
    NotADirectoryError: "no such file",
    IsADirectoryError: "a folder in the place of the file",
}
"""What is no trouble of the machine: the file is not there."""
NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


@dataclass(frozen=True)
class FileDigest:
    """Size and checksum of a file: ``bytes``, and the CRC-32 of zip and gzip as eight lower-case hex digits.

    Not CRC-32C: a Zarr shard is made of pieces that are each followed by their own CRC-32C, and the CRC-32C of
    such a file depends on nothing but its size. Two shards of one size could then stand for each other.

    ``chunks``, for such a shard: the CRC-32 of all these checksums and the table behind them. Who has compared each
    piece with its own CRC-32C need only know this of the whole, and CRC-32C is several times faster.
    """

    bytes: int
    crc32: str
    chunks: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.bytes} bytes, crc32 {self.crc32}"


def digest_bytes(data: bytes) -> FileDigest:
    """Digest of bytes in memory."""
    return FileDigest(len(data), f"{zlib.crc32(data):08x}")


def digest_file(path: Path | str) -> FileDigest:
    """Digest of a file, read in pieces. OSError if it cannot be read."""
    size, crc = 0, 0
    with Path(path).open("rb") as file:
        while piece := file.read(READ_BYTES):
            size += len(piece)
            crc = zlib.crc32(piece, crc)
    return FileDigest(size, f"{crc:08x}")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into an error of one line.

    Raises:
        MachineError: disk full, read-only, no permission, and the like. Any other OSError passes through.

    """
    try:
        yield
    except OSError as error:
        if error.errno not in WRITE_REFUSALS:
            raise
        found, remedy = WRITE_REFUSALS[error.errno]
        raise MachineError(path, f"cannot write: {found}", remedy) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to read into an error of one line.

    Raises:
        MachineError: too many open files, an error of the disk, no permission, and the like. The errors of `MISSING`
            pass through.

    """
    try:
        yield
    except tuple(MISSING):
        raise
    except OSError as error:
        unknown = (error.strerror or str(error), "repeat the command when the machine can read it")
        cause, remedy = READ_REFUSALS.get(error.errno or 0, unknown)
        raise MachineError(path, f"cannot read: {cause} (nothing is known to be damaged)", remedy) from error


def refuse_machine_error(path: Path, error: OSError) -> None:
    """Raise MachineError if the trouble is the machine's (`MACHINE_CAUSES`), so not to be taken for one of the file."""
    if error.errno in MACHINE_CAUSES:
        cause, remedy = MACHINE_CAUSES[error.errno]
        raise MachineError(path, f"cannot read: {cause}", remedy) from error


@contextlib.contextmanager
def unless_removed(path: Path) -> Iterator[None]:
    """Like `reading`, for a file that another process may remove at any moment: then nothing happens."""
    try:
        with reading(path):
            yield
    except FileNotFoundError:
        pass
    except MachineError as error:
        # What a network file system says of a file that another machine removed while it was read.
        if getattr(error.__cause__, "errno", None) != errno.ESTALE:
            raise


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that keep no folders of their own
            raise
    finally:
        os.close(descriptor)


def sync_tree(paths: Iterable[Path | str]) -> None:
    """Flush files that others wrote (and then each of their folders once) to the disk."""
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
        except FileNotFoundError as error:  # such as /proc, or a parent that somebody has removed at this moment
            raise MachineError(folder, "cannot write: no folder can be made here", "choose another folder") from error
        sync_folder(folder.parent)


def require_place(folder: Path) -> None:
    """InputError unless files can be written into a folder, or it can be made; nothing is written.

    To be asked before hours of work; the machine may still refuse later.
    """
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    with writing(above):
        if not above.is_dir():
            raise FileExistsError(errno.EEXIST, "a file")
        if not os.access(above, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, "no permission")


def require_own_folder(folder: Path, *patterns: str) -> None:
    """InputError if a folder to write into holds anything but names of these patterns, or a file is in its place.

    What an interrupted command left behind has such a name, or is a leftover.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file; choose a new or empty folder")
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    others = [name for name in names if not is_leftover(name) and not any(fnmatch(name, one) for one in patterns)]
    if others:
        raise InputError(f"{folder}: not empty (it holds {min(others)!r}); choose a new or empty folder")


def name_aside(path: Path) -> Path:
    """A path beside ``path`` that no other attempt has, for what is renamed when it is whole; see `is_leftover`."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex}{LEFTOVER_SUFFIX}"


@contextlib.contextmanager
def _aside(path: Path, data: bytes, flush: bool = True) -> Iterator[Path]:
    """Write ``data`` under a name beside ``path`` that no other attempt has; removed at the end."""
    make_folder(path.parent)
    aside = name_aside(path)
    with writing(path):
        try:
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                if flush:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield aside
        finally:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)


def write_atomic(path: Path | str, data: bytes, flush: bool = True) -> FileDigest:
    """Write a whole file so that its path never shows a part of it. The last writer wins.

    Folders are created as needed. When this returns, bytes and name are on the disk, unless ``flush`` is
    False (for logs, which may be lost with the machine).

    Raises:
        MachineError: the disk is full, read-only, and the like.

    """
    path = Path(path)
    with _aside(path, data, flush) as aside:
        aside.replace(path)
        if flush:
            sync_folder(path.parent)
    return digest_bytes(data)


def publish_first(path: Path | str, data: bytes, flush: bool = True) -> bool:
    """Write a whole file unless it already exists. The first writer wins, also between machines.

    When this returns, the file is on the disk, unless ``flush`` is False.

    Returns:
        True if the file holds our bytes because we wrote them; False if somebody was there before.

    """
    path = Path(path)
    if path.exists():
        return False
    with _aside(path, data, flush) as aside:
        try:
            os.link(aside, path)
            ours = True
        except FileExistsError:
            ours = False
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            # A file system without hard links (some object-store mounts): two writers within the same
            # millisecond may both believe they were first; each file is still whole.
            ours = not path.exists()
            if ours:
                aside.replace(path)
        if flush:
            # Also for the loser: what it writes next must not reach the disk before the name it relies on.
            sync_folder(path.parent)
    return ours


def is_leftover(name: str) -> bool:
    """Whether a file name is that of an interrupted write."""
    return name.startswith(".") and name.endswith(LEFTOVER_SUFFIX)


@contextlib.contextmanager
def _reading_expected(path: Path, expected: object, remedy: str) -> Iterator[None]:
    """Like `reading`, for a file that must be there: CorruptError if it is not."""
    try:
        with reading(path):
            yield
    except tuple(MISSING) as error:
        raise CorruptError(path, MISSING[type(error)], expected, remedy) from None


def check_size(path: Path | str, digest: FileDigest, remedy: str = "") -> None:
    """Check that a file exists and has the expected size, without reading it.

    Raises:
        CorruptError: it is missing or has another size.
        MachineError: the machine cannot tell.

    """
    path = Path(path)
    with _reading_expected(path, digest, remedy):
        size = path.stat().st_size
    if size != digest.bytes:
        raise CorruptError(path, f"{size} bytes", digest, remedy)


def check_file(path: Path | str, digest: FileDigest, remedy: str = "") -> None:
    """Check that a file holds the bytes that were written.

    Raises:
        CorruptError: it does not (with ``remedy``).
        MachineError: the machine cannot read it.

    """
    path = Path(path)
    check_size(path, digest, remedy)
    with _reading_expected(path, digest, remedy):
        found = digest_file(path)
    if found != digest:
        raise CorruptError(path, found, digest, remedy)


def read_checked(path: Path | str, digest: FileDigest, remedy: str = "") -> bytes:
    """Read a file whose bytes are those that were written. Raises as `check_file` does."""
    path = Path(path)
    check_size(path, digest, remedy)
    data = read_expected(path, digest, remedy)
    found = digest_bytes(data)
    if found != digest:
        raise CorruptError(path, found, digest, remedy)
    return data


def read_expected(path: Path, expected: object, remedy: str = "") -> bytes:
    """Bytes of a file. CorruptError if it is missing, MachineError if the machine cannot read it."""
    with _reading_expected(path, expected, remedy):
        return path.read_bytes()


def canonical_json(content: Any, indent: int | None = None) -> bytes:
    """The one JSON text of a value: sorted keys, ASCII, no NaN. ValueError or TypeError if it has none."""
    return json.dumps(content, sort_keys=True, indent=indent, allow_nan=False).encode("ascii")


def json_bytes(content: dict[str, Any]) -> bytes:
    """Text of a JSON file that carries its own checksum in the field ``crc32``."""
    if "crc32" in content:
        raise ValueError("the field 'crc32' is the file's own checksum")
    checksum = digest_bytes(canonical_json(content)).crc32
    return canonical_json({**content, "crc32": checksum}, indent=1) + b"\n"


def write_json(path: Path | str, content: dict[str, Any]) -> FileDigest:
    """Write a dict as canonical JSON with its own checksum, atomically."""
    return write_atomic(path, json_bytes(content))


def parse_json(path: Path | str, data: bytes, remedy: str = "") -> dict[str, Any]:
    """The dict in a file of ``json_bytes``, without its checksum. CorruptError if any byte was changed.

    Comparing with the canonical text also notices a changed blank, a doubled key or another spelling of
    a number, which a checksum over the parsed content would let pass.
    """
    path = Path(path)
    expected = "canonical JSON with its own crc32"
    try:
        content = json.loads(data)
        checksum = content.pop("crc32")
        again = json_bytes(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CorruptError(path, f"{len(data)} bytes that are none ({reason})", expected, remedy) from None
    if again != data:
        actual = json.loads(again)["crc32"]
        raise CorruptError(path, f"changed bytes (crc32 {actual}, recorded {checksum})", expected, remedy)
    return content


def read_json(path: Path | str, remedy: str = "") -> dict[str, Any]:
    """Read a file of ``write_json``. CorruptError if it is missing or any byte was changed; else as `read_expected`."""
    path = Path(path)
    return parse_json(path, read_expected(path, "a JSON file", remedy), remedy)
