"""A corpus divided into pieces that different workers read: ranges of bytes of text files, row groups, whole files.

The pieces depend on the files only. One after the other they hold the same sentences as `read_corpus` of all files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lenscore.contexts.corpus import FileCounts, TextChoice, read_file
from lenscore.contexts.corpus_file import CorpusFile
from lenscore.user_files.rows import DIVISIBLE, format_of
from lenscore.user_files.text_lines import BOM
from storage_layouts.errors import InputError

PIECE_BYTES = 1 << 25
"""Bytes of text in a piece, about: a few million tokens, which take one core some ten seconds."""
COMPRESSION = 4
"""How many times as long the text of a compressed file is supposed to be."""


@dataclass(frozen=True)
class FilePart:
    """A part of the corpus file number `file`, or all of it; see `lenscore.user_files.rows.read_rows`."""

    file: int
    part: tuple[int, int] | None = None


Piece = tuple[FilePart, ...]


def split_corpus(files: Sequence[CorpusFile], piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """Divide a corpus into pieces of about `piece_bytes`, in the order of its sentences; small files share a piece."""
    pieces: list[Piece] = []
    begun: list[FilePart] = []
    size = 0
    for number, file in enumerate(files):
        for part, part_bytes in _parts(file, piece_bytes):
            begun.append(FilePart(number, part))
            size += part_bytes
            if 2 * size >= piece_bytes:  # what a divided file gives is longer
                pieces.append(tuple(begun))
                begun, size = [], 0
    return [*pieces, tuple(begun)] if begun else pieces


def read_piece(
    piece: Piece,
    files: Sequence[CorpusFile],
    choice: TextChoice,
    counts: dict[int, FileCounts],
) -> Iterator[str]:
    """The sentences of a piece; `counts` takes those of each of its files, by number.

    Raises InputError as `read_corpus`, with the same message.
    """
    for one in piece:
        file = files[one.file]
        try:
            # A piece may hold several parts of a file.
            yield from read_file(file, choice, counts.setdefault(one.file, FileCounts()), one.part)
        except InputError:
            if one.part:  # whose lines have other numbers than those of the file
                for _ in read_file(file, choice, FileCounts()):
                    pass
            raise


def _parts(file: CorpusFile, piece_bytes: int) -> list[tuple[tuple[int, int] | None, int]]:
    """Parts of a file that are not much longer than a piece, with their bytes of text, about.

    A file of the Hub is one part: the worker that reads it downloads it.
    """
    whole, kind, name = text_bytes(file), format_of(file.format_name), file.format_name.lower()
    if file.path is None:
        return [(None, whole)]
    if whole <= piece_bytes or kind not in (None, *DIVISIBLE) or name.endswith((".gz", ".zst")):
        return [(None, whole)]
    if kind == ".jsonl" and not _begins_with_object(file.path):  # the first object says which columns there are
        return [(None, whole)]
    count = -(-whole // piece_bytes)
    if kind != ".parquet":
        bounds = [whole * i // count for i in range(count + 1)]
        return [((first, stop), stop - first) for first, stop in pairwise(bounds)]
    groups = _row_groups(file.path)
    bounds = sorted({groups * i // count for i in range(count + 1)})
    parts = list(pairwise(bounds))
    return [((first, stop), whole * (stop - first) // groups) for first, stop in parts] or [(None, whole)]


def text_bytes(file: CorpusFile) -> int:
    """Bytes of the text of a file: its size, or about that of what is compressed."""
    size, _ = file.state()
    return size * COMPRESSION if file.format_name.lower().endswith((".gz", ".zst", ".parquet")) else size


def piece_bytes_of(piece: Piece, files: Sequence[CorpusFile]) -> int:
    """Bytes of the text of a piece, about."""
    total = 0
    for one in piece:
        file = files[one.file]
        whole = text_bytes(file)
        if one.part is None or file.path is None:
            total += whole
        elif format_of(file.format_name) == ".parquet":
            total += whole * (one.part[1] - one.part[0]) // max(1, _row_groups(file.path))
        else:
            total += one.part[1] - one.part[0]
    return total


def _begins_with_object(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1 << 12).removeprefix(BOM).lstrip().startswith(b"{")


def _row_groups(path: Path) -> int:
    """Number of row groups; 0 for a file that cannot be read, which is told when it is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path).num_row_groups
    except (pa.ArrowException, OSError):
        return 0
