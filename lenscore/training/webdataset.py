"""Samples of a webdataset tar file: members with one name up to the first dot, one of them an image."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lenscore.images.image_files import image_suffixes
from lenscore.user_files.notes import Notes
from lenscore.user_files.rows import CAPTION_COLUMNS
from storage_layouts.errors import InputError

_BLOCK = tarfile.BLOCKSIZE


class Sample(NamedTuple):
    """One image: what messages call it, its fields by name, and where its bytes are in the file."""

    where: str
    fields: dict[str, Any]
    offset: int
    size: int


@dataclass
class _Members:
    """The members of a sample so far."""

    key: str = ""
    image: tuple[int, int] | None = None
    fields: dict[str, Any] = field(default_factory=dict)


def samples_of(file: Path, notes: Notes) -> Iterator[Sample]:
    """The samples with an image, in their order; `notes` counts what is left out.

    Fields are the members .txt and `CAPTION_COLUMNS` (bytes), and what a member .json holds. Raises InputError, naming
    the place, for a file that is cut or damaged. One that ends behind a whole member, without the mark of an end,
    cannot be told from one that its writer did not close: it is noted.
    """
    members, last = _Members(), "its beginning"
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                last = f"member {_readable(member.name)}"
                folder, _, name = member.name.rpartition("/")
                if not member.isfile():
                    if not member.isdir():
                        notes.add("members that are no files (links), not taken", file.name)
                    continue
                if name.startswith("."):
                    notes.add("hidden files and folders, not taken", name)
                    continue
                stem, _, ending = name.partition(".")
                if f"{folder}/{stem}" != members.key:
                    yield from _sample(file, members, notes)
                    members = _Members(f"{folder}/{stem}")
                _take(archive, member, ending.lower(), members, f"{file}, {last}", notes)
            end = archive.offset
        yield from _sample(file, members, notes)
    except tarfile.TarError as error:
        raise InputError(f"{file}: cut or damaged at or behind {last} ({error})") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from None
    _check_end(file, end, last, notes)


def _take(
    archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str, members: _Members, where: str, notes: Notes
) -> None:
    if f".{ending}" in image_suffixes():
        if members.image:
            notes.add("images of a sample with several, only the last taken", f".{ending}")
        members.image = member.offset_data, member.size
    elif ending in ("txt", "json", *CAPTION_COLUMNS):
        content = archive.extractfile(member)
        data = content.read() if content else b""
        members.fields |= _object(data, where) if ending == "json" else {ending: data}
    elif "." in ending:
        notes.add("files with several dots in their names (a sample's name ends at the first), not taken", f".{ending}")
    else:
        notes.add("files of other kinds, not taken", f".{ending}")


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one
        raise InputError(f"{where}: not JSON ({getattr(error, 'msg', error)})") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object as in {{'caption': ...}}, found {type(value).__name__}")
    return value


def _sample(file: Path, members: _Members, notes: Notes) -> Iterator[Sample]:
    if members.image:
        yield Sample(f"{file}, sample {_readable(members.key).lstrip('/')}", members.fields, *members.image)
    elif members.key:
        notes.add("samples without an image, left out", file.name)


def _check_end(file: Path, end: int, last: str, notes: Notes) -> None:
    """The tarfile module takes whatever it cannot read as a header for the end of the archive."""
    with file.open("rb") as stream:
        stream.seek(end)
        block = stream.read(_BLOCK)
        if block.strip(b"\0"):
            what = "cut inside the header" if len(block) < _BLOCK else "a damaged header"
            raise InputError(f"{file}: {what} behind {last} (byte {end:,})")
        if len(block) < _BLOCK:
            notes.add("tar files without an end mark, perhaps cut behind a member", file.name)
        while data := stream.read(1 << 20):
            if data.strip(b"\0"):
                raise InputError(
                    f"{file}: data behind the end of the archive (byte {end:,}), which would be left out; several tar "
                    "files in one? keep them apart"
                )


def _readable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
