"""Text files of the user: lines of UTF-8, plain or compressed, and rows of csv and tsv."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal, cast

from storage_layouts.errors import InputError, first_line

EncodingErrors = Literal["strict", "replace"]

BOM = b"\xef\xbb\xbf"

PICTURES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF"}
"""What the first bytes of a file that is no text say of it."""

PART_BYTES = 1 << 16
"""Bytes of a file that are decoded together."""


def _unreadable() -> tuple[type[Exception], ...]:
    """The errors of a compressed file that is damaged or cannot be read; called when there is one."""
    import pyarrow as pa

    return EOFError, zlib.error, pa.ArrowException, OSError


class Lines:
    """The decoded lines of a text file with their line ends; `number` is that of the last line.

    `part` is a range of the bytes of a file that is not compressed: the lines that begin there, numbered from 1 on.
    """

    def __init__(self, path: Path, errors: EncodingErrors, part: tuple[int, int] | None = None) -> None:
        self.path, self.number, self._errors, self._part = path, 0, errors, part
        self._lines = self._read()

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def refusal(self, what: str, line: int | None = None) -> InputError:
        """An error about a line, by default the last one."""
        return InputError(f"{self.path}, line {line or self.number}: {what}")

    def _read(self) -> Iterator[str]:
        try:
            with _opened(self.path) as stream:
                begins = not self._part or self._part[0] == 0
                for lines in _lines_of_part(stream, *self._part) if self._part else _whole_lines(stream):
                    for line in self._decoded(lines.removeprefix(BOM) if begins and not self.number else lines):
                        self.number += 1
                        yield line
        except _unreadable() as error:
            raise _refusal(self.path, self.number, error) from None

    def _decoded(self, lines: bytes) -> Iterator[str]:
        """The text of whole lines, together if possible: that is several times as fast as line by line."""
        try:
            if b"\0" not in lines:
                return io.StringIO(lines.decode("utf-8", self._errors), newline="\n")
        except UnicodeDecodeError:
            pass  # the lines before that one are valid
        return self._decoded_one_by_one(lines)

    def _decoded_one_by_one(self, lines: bytes) -> Iterator[str]:
        for number, line in enumerate(io.BytesIO(lines), self.number + 1):
            if b"\0" in line:
                self._refuse_picture(line, number)
                raise self.refusal("holds NUL bytes (UTF-16?); convert the file to UTF-8", number)
            try:
                yield line.decode("utf-8", self._errors)
            except UnicodeDecodeError as error:
                self._refuse_picture(line, number)
                raise self.refusal(
                    f"not UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1}); "
                    "convert the file (or, for a corpus, add --encoding-errors replace)",
                    number,
                ) from None

    def _refuse_picture(self, line: bytes, number: int) -> None:
        kind = next((kind for begin, kind in PICTURES.items() if line.startswith(begin)), None)
        if kind and number == 1:
            raise InputError(f"{self.path}: looks like a picture (its first bytes are those of {kind}), expected text")


def _whole_lines(stream: BinaryIO) -> Iterator[bytes]:
    """The bytes of a file in parts that end with a line end, but for the last one."""
    begun: list[bytes] = []  # of a line, which may be longer than a part
    while part := cast(io.BufferedReader, stream).read1(PART_BYTES):
        lines, end, rest = part.rpartition(b"\n")
        if end:
            yield b"".join([*begun, lines, end])
            begun = [rest]
        else:
            begun.append(part)
    if last := b"".join(begun):
        yield last


def _lines_of_part(stream: BinaryIO, first: int, stop: int) -> Iterator[bytes]:
    """As `_whole_lines`, of the lines whose first byte is one of the bytes [`first`, `stop`)."""
    if first:  # the line of the byte before begins there or earlier
        stream.seek(first - 1)
        stream.readline()
    position = stream.tell()
    for lines in _whole_lines(stream):
        if position >= stop:
            return
        if position + len(lines) > stop and (end := lines.find(b"\n", stop - 1 - position)) >= 0:
            yield lines[: end + 1]
            return
        yield lines
        position += len(lines)


def text_chunks(path: Path, size: int) -> Iterator[str]:
    """A text file in parts of `size` bytes, whatever its lines. Raises InputError as `Lines` does."""
    decoder, line = codecs.getincrementaldecoder("utf-8-sig")(), 1
    try:
        with _opened(path) as stream:
            while data := stream.read(size):
                if b"\0" in data:
                    raise InputError(f"{path}, line {line}: holds NUL bytes (UTF-16?); convert the file to UTF-8")
                yield decoder.decode(data)
                line += data.count(b"\n")
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        found = error.object[error.start]
        raise InputError(f"{path}, line {line} or later: not UTF-8 (byte 0x{found:02x}); convert the file") from None
    except _unreadable() as error:
        raise _refusal(path, line, error) from None


def _refusal(path: Path, line: int, error: Exception) -> InputError:
    """What is said of `_unreadable`."""
    if isinstance(error, OSError) and error.errno is not None:
        return InputError(f"{path}: cannot be read ({error.strerror or error})")
    return InputError(f"{path}: broken or truncated compressed file after line {line} ({first_line(error)})")


def _opened(path: Path) -> BinaryIO:
    name = path.name.lower()
    if not name.endswith((".gz", ".zst")):
        return path.open("rb")
    if path.stat().st_size == 0:
        raise EOFError("no bytes at all")
    if name.endswith(".gz"):
        return cast(BinaryIO, gzip.open(path))
    # Unlike zstandard, Arrow raises an error at the end of a truncated file.
    import pyarrow as pa

    return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(path), compression="zstd")))


def single_lines(lines: Lines) -> Iterator[str]:
    """The lines without their ends. Raises InputError for a carriage return inside a line."""
    for line in lines:
        line = line.rstrip("\r\n")
        if "\r" in line:
            raise lines.refusal("a carriage return inside a line (line ends of an old Mac?); convert the line ends")
        yield line


def delimited_rows(lines: Lines, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a csv (separator ",") or tsv (a tab) as (first line, fields), without blank lines.

    Raises InputError for a row with another number of fields than the first one.
    """
    width = 0
    for number, fields in csv_records(lines) if separator == "," else _tsv_records(lines):
        width = width or len(fields)
        if len(fields) != width:
            raise lines.refusal(
                f"{len(fields)} fields, but the first line has {width}; quote a field that holds the separator",
                number,
            )
        yield number, fields


def csv_records(lines: Lines) -> Iterator[tuple[int, list[str]]]:
    """The rows of a csv of any length. Raises InputError for unbalanced quotation marks."""
    reader = csv.reader(lines, strict=True)
    while True:
        begins = lines.number + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise lines.refusal(_said(error), begins) from None
        if fields:
            yield begins, fields


def _tsv_records(lines: Lines) -> Iterator[tuple[int, list[str]]]:
    """The rows of a tsv, in which a quotation mark is a quote only if the number of fields is then right."""
    numbered = ((lines.number, line) for line in single_lines(lines))
    width, ahead = 0, next(numbered, None)
    while ahead is not None:
        (begins, line), ahead = ahead, next(numbered, None)
        fields = line.split("\t")
        if '"' in line:
            quoted, is_open = _quoted_fields(line)
            next_width = len(fields) if ahead is None else ahead[1].count("\t") + 1
            if quoted and len(quoted) == (width or len(quoted)):
                fields = quoted
            elif is_open and (width == 1 or not len(fields) == next_width == (width or next_width)):
                given = [(begins, line), *([ahead] if ahead else [])]
                texts = (text + "\n" for _, text in chain(given, numbered))
                try:  # a quoted field with a line end in it
                    fields = next(csv.reader(texts, "excel-tab", strict=True))
                except csv.Error as error:
                    raise lines.refusal(_said(error), begins) from None
                ahead = next(numbered, None)  # the one before is part of the field
        width = width or len(fields)
        if line:
            yield begins, fields


def _quoted_fields(line: str) -> tuple[list[str], bool]:
    """The fields of a line with quoting, [] if it is malformed; and whether a quote is left open."""
    try:
        return next(csv.reader([line], "excel-tab", strict=True)), False
    except csv.Error as error:
        return [], "unexpected end" in str(error)


def _said(error: Exception) -> str:
    """A description of an error of the csv module."""
    message = str(error)
    if "unexpected end" in message or "field larger" in message:
        return f"a quotation mark opens a field and no other closes it ({message})"
    if "expected after" in message:
        return "text behind the quotation mark that closes a field; inside a quoted field write a quotation mark twice"
    if "new-line" in message:
        return "a carriage return inside a line (line ends of an old Mac?); convert the line ends"
    return f"not a readable table ({message})"
