"""Files of the user: search of folders with links, only regular files, names that are not UTF-8."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from lenscore.user_files.notes import Notes
from storage_layouts.errors import InputError


def files_in(folder: Path, takes: Callable[[str], bool], notes: Notes) -> list[Path]:
    """The files of a folder and its subfolders whose names `takes` accepts, sorted.

    Links to folders are followed, each folder once. `notes` counts what is left out: names that begin with a dot, other
    kinds of files, folders that were visited before or cannot be read, and files that are not regular. Broken links are
    included, so that opening them raises an error.
    """
    found: list[Path] = []
    met = set()

    def unreadable(error: OSError) -> None:
        notes.add("folders that cannot be read", f"{error.filename} ({error.strerror})")

    for place, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        about = Path(place).stat()
        if (about.st_dev, about.st_ino) in met:
            notes.add("folders met again through a link, not read twice", os.path.relpath(place, folder))
            folders.clear()
            continue
        met.add((about.st_dev, about.st_ino))
        for name in sorted(name for name in (*folders, *names) if name.startswith(".")):
            notes.add("hidden files and folders, not taken", name)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(place, name)
            if not takes(name):
                notes.add("files of other kinds, not taken", path.suffix.lower() or "without a suffix")
            elif path.exists() and not path.is_file():
                notes.add("not a regular file, not taken", name)
            else:
                found.append(path)
    return sorted(found)


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether a path exists; False for a text that is too long to be one."""
    try:
        return Path(path).exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def require_regular(path: Path, where: str) -> None:
    """Raises InputError if the path is not a regular file, because reading a named pipe would block."""
    if is_there(path) and not path.is_file():
        what = "a folder" if path.is_dir() else "not a regular file"
        raise InputError(f"{where}: {what} (it is read more than once); expected a file, save it as one first")


def read_regular(path: Path) -> bytes:
    """The bytes of a file. Raises OSError if it cannot be read, or is a pipe, a device or a folder."""
    try:
        is_regular = stat.S_ISREG(path.stat().st_mode)
    except ValueError:  # NUL in the name
        raise OSError(errno.EINVAL, "no possible file name", str(path)) from None
    if not is_regular:
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.read_bytes()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def git_blob_id_of(path: Path) -> str:
    """The name that git gives to the content of a file: a SHA-1, as 40 hex digits."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def stored_path(path: Path) -> str:
    """An absolute path as text for tables and JSON: unchanged, or a file: URI if its bytes are not UTF-8."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return path.as_uri()
    return str(path)


def path_from_stored(text: str) -> Path:
    """The inverse of `stored_path`."""
    return Path(os.fsdecode(unquote_to_bytes(urlsplit(text).path)) if text.startswith("file://") else text)
