"""Text files and tables of the user, read row by row.

Formats by file name: .csv, .tsv, .jsonl, .json (an array, or one value in each line), .parquet, and .txt (one text in
each line; also any other suffix); all but Parquet also compressed as .gz or .zst. Truncated or malformed files are
refused.

All rows of a csv or tsv have the same number of fields. A csv quotes as in RFC 4180. In a tsv, a field that is
completely in quotation marks loses them if the number of fields is right.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lenscore.user_files.finding import require_regular
from lenscore.user_files.text_lines import EncodingErrors, Lines, delimited_rows, single_lines
from storage_layouts.errors import InputError, first_line

if TYPE_CHECKING:  # imported where a table is read, so that a missing file is said at once
    import pandas as pd
    import pyarrow as pa

FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet")
TABLES = FORMATS[1:]
DIVISIBLE = (".txt", ".jsonl", ".parquet")
"""Formats of which a part can be read, unless the file is compressed."""
SEPARATORS = {".csv": ",", ".tsv": "\t"}
CAPTION_COLUMNS = ("caption", "text", "answer")
"""Names of the column (or JSON field, or member of a tar file) of captions, in order of preference."""
ROWS_OF_IMAGES = 64
"""Rows of a Parquet file with binary columns that are in memory at a time."""

_OTHER_SEPARATORS = (";", "\t", "|", ",")
_UNITS = {".parquet": "row", ".json": "entry"}


@dataclass(frozen=True)
class Column:
    """A column to read: the one that the user named with `flag`, else the first of the usual names, in any case.

    A column that is not `needed` may be missing: then its values are None.
    """

    flag: str
    asked: str = ""
    usual: tuple[str, ...] = ()
    needed: bool = True

    def among(self, names: Sequence[str], where: str, may_lack: bool = False) -> int | None:
        """Its index, or None if it is missing and optional. Raises InputError if it is missing, or occurs twice."""
        folded = [name.strip().casefold() for name in names]
        name = self.asked or next((name for name in self.usual if name in folded), None)
        if name in names or (not self.asked and name in folded):
            index = names.index(name) if name in names else folded.index(cast(str, name))
            if (again := names.count(names[index])) > 1:
                raise InputError(f"{where}: {again} columns are named {names[index]!r}; expected one")
            return index
        if may_lack or not (self.needed or self.asked):
            return None
        expected = repr(self.asked) if self.asked else " or ".join(map(repr, self.usual))
        found = ", ".join(repr(name[:50]) for name in names[:20]) or "none"
        raise InputError(f"{where}: no column {expected}; it has {found} ({self.flag}){_separator_hint(names)}")


def format_of(name: str) -> str | None:
    """The format of a file's name, one of `FORMATS`; None if it is unknown."""
    name = name.lower()
    if name.endswith(".parquet"):
        return ".parquet"
    name = name.removesuffix(".gz").removesuffix(".zst")
    return next((ending for ending in FORMATS[:-1] if name.endswith(ending)), None)


def place(path: Path, number: int) -> str:
    """The place of a row of `read_rows`, for messages: "FILE, line 7"."""
    return f"{path}, {_UNITS.get(format_of(path.name) or '', 'line')} {number}"


def read_rows(
    path: Path,
    columns: Sequence[Column],
    errors: EncodingErrors = "strict",
    bare_texts: bool = False,
    part: tuple[int, int] | None = None,
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The rows of a table: (number from 1 on, values of the columns).

    With `bare_texts` (for one column) also texts without a column: lines of a .txt, strings of JSON, and a csv or tsv
    of one column whose first line is not a known name. A JSON object without the column gives None, unless it is the
    first. `part` is a range of a file of a format in `DIVISIBLE`: of the row groups of a Parquet file, numbered as in
    the whole file, or of the bytes of lines, see `Lines`. Raises InputError, with file and line, for anything that
    cannot be read.
    """
    require_regular(path, str(path))
    kind = format_of(path.name)
    if kind == ".parquet":
        return _parquet_rows(path, columns, part)
    lines = Lines(path, errors, part)
    if kind in SEPARATORS:
        return _table_rows(path, delimited_rows(lines, SEPARATORS[kind]), columns, bare_texts)
    if kind in (".jsonl", ".json"):
        return _json_rows(path, lines, columns, bare_texts, begins=part is None or part[0] == 0)
    return ((lines.number, (line,)) for line in single_lines(lines))


def texts_of(value: Any, where: str, errors: EncodingErrors = "strict") -> list[str]:
    """The non-empty texts of a cell, stripped: a text, UTF-8 bytes, a list of them, or null.

    Raises InputError for anything else, and for invalid Unicode unless `errors` is "replace".
    """
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in texts_of(item, where, errors)]
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: not UTF-8 (byte 0x{value[error.start]:02x})") from None
    if not isinstance(value, str):
        raise InputError(f"{where}: expected a text, found {type(value).__name__}")
    if not value.isascii():
        value = _whole_characters(value, where, errors)
    value = value.strip()
    return [value] if value else []


def read_table_file(path: Path, where: str) -> pd.DataFrame:
    """A whole csv, tsv or parquet file; every field of a csv or tsv is text, also an empty one.

    `where` names the file in errors. Raises InputError if it cannot be read.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    require_regular(path, where)
    try:
        if format_of(path.name) == ".parquet":
            return pq.read_table(path).to_pandas()  # pd.read_parquet would give Arrow's threads a Python file
        separator = SEPARATORS.get(format_of(path.name) or "", ",")
        rows = [fields for _, fields in delimited_rows(Lines(path, "strict"), separator)]
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{where}: not a readable table: {first_line(error)}") from None
    return pd.DataFrame(rows[1:], columns=rows[0] if rows else [], dtype=str)


def _table_rows(
    path: Path, rows: Iterator[tuple[int, list[str]]], columns: Sequence[Column], bare_texts: bool
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    first = next(rows, None)
    if first is None:
        return
    number, header = first
    names = [name.strip() for name in header]
    is_bare = bare_texts and len(header) == 1 and not columns[0].asked and not _separator_hint(names)
    try:
        indices = [column.among(names, f"{path}, line {number}") for column in columns]
    except InputError:
        if not is_bare:
            raise
        indices = [0]
        yield number, (header[0],)
    for number, fields in rows:
        yield number, tuple(None if index is None else fields[index] for index in indices)


def _separator_hint(names: Sequence[str]) -> str:
    other = next((mark for mark in _OTHER_SEPARATORS if len(names) == 1 and mark in names[0]), None)
    return f"; the fields seem to be separated by {other!r}, expected ',' in a .csv, a tab in a .tsv" if other else ""


def _json_rows(
    path: Path, lines: Lines, columns: Sequence[Column], bare_texts: bool, begins: bool
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    known: dict[tuple[str, ...], list[str | None]] = {}
    for number, value in _json_entries(lines) if format_of(path.name) == ".json" else _json_lines(lines, lines):
        if isinstance(value, dict):
            names = tuple(value)
            if names not in known:
                where, may_lack = place(path, number), bool(known) or not begins
                indices = [column.among(names, where, may_lack) for column in columns]
                known[names] = [None if index is None else names[index] for index in indices]
            yield number, tuple(None if name is None else value[name] for name in known[names])
        elif bare_texts:
            yield number, (value,)
        else:
            raise InputError(f"{place(path, number)}: expected an object, found {type(value).__name__}")


def _json_lines(lines: Lines, given: Iterable[str]) -> Iterator[tuple[int, Any]]:
    for line in given:
        if line.strip():
            yield lines.number, _parsed(lines, line.strip(), lines.number)


def _json_entries(lines: Lines) -> Iterator[tuple[int, Any]]:
    """The items of an array; or the values of lines, which also occur as .json."""
    first = next((line for line in lines if line.strip()), "")
    if first.lstrip().startswith("["):
        begins = lines.number
        yield from enumerate(_parsed(lines, first + "".join(lines), begins), start=1)
    else:
        values = _json_lines(lines, chain([first], lines))
        yield from enumerate((value for _, value in values), start=1)


def _parsed(lines: Lines, text: str, number: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise lines.refusal(f"not JSON ({error.msg})", number + error.lineno - 1) from None
    except ValueError as error:  # a number of thousands of digits
        raise lines.refusal(f"not readable as JSON ({first_line(error)})", number) from None
    except RecursionError:
        raise lines.refusal("JSON that is nested too deeply", number) from None


def _parquet_rows(
    path: Path, columns: Sequence[Column], part: tuple[int, int] | None
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 1
    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        indices = [column.among(schema.names, str(path)) for column in columns]
        chosen = [index for index in indices if index is not None]
        holds_bytes = any(not pa.types.is_string(schema.field(index).type) for index in chosen)
        names = list(dict.fromkeys(schema.names[index] for index in chosen))
        groups = range(file.num_row_groups)[slice(*part) if part else slice(None)]
        number += sum(file.metadata.row_group(group).num_rows for group in range(groups.start))
        for batch in file.iter_batches(ROWS_OF_IMAGES if holds_bytes else 65536, list(groups), names):
            cells = {name: _cells(batch.column(name), path, number) for name in names}
            empty = [None] * len(batch)
            values = [empty if index is None else cells[schema.names[index]] for index in indices]
            yield from enumerate(zip(*values, strict=True), start=number)
            number += len(batch)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
        where = f"{path}: " if number == 1 else f"{place(path, number)}: "
        raise InputError(f"{where}not a readable Parquet file ({first_line(error)})") from None


def _cells(column: pa.Array, path: Path, number: int) -> list[Any]:
    import pyarrow as pa

    try:
        return column.to_pylist()
    except UnicodeDecodeError:  # `texts_of` decodes the bytes, with the place in its error
        return column.cast(pa.binary()).to_pylist()


def _whole_characters(text: str, where: str, errors: EncodingErrors) -> str:
    """The text, in which JSON may have escaped half a character (a lone surrogate)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        if errors == "strict":
            half = ord(text[error.start])
            raise InputError(f"{where}: half of a character (\\u{half:04x}, a lone surrogate) in a text") from None
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
