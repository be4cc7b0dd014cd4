"""Images in the cells of a table: paths, or bytes as in Parquet files of Hugging Face.

An image in a Parquet file has the path TABLE.parquet/COLUMN/ROW or TABLE.parquet/COLUMN/ROW-NAME (rows from 1 on), so
it can be used wherever an image is named by its path.
"""

from __future__ import annotations

import errno
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from lenscore.user_files.finding import read_regular
from lenscore.user_files.rows import Column, texts_of
from storage_layouts.errors import InputError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

PATH_COLUMNS = ("path", "file", "file_name", "image")
"""Names of the column of images, in order of preference."""

_READING = threading.Lock()


@dataclass(frozen=True)
class ImageCell:
    """An image of a table: its absolute path, and its bytes if the table holds them."""

    path: Path
    data: bytes | None


def image_of_cell(value: Any, table: Path, column: Column, number: int, where: str) -> ImageCell | None:
    """The image of a cell: a path (relative to the table), bytes, or {bytes, path} with either; None for an empty cell.

    `column` and `number` (of the row) locate the cell. Raises InputError, with `where`, for anything else.
    """
    table = table.absolute()
    data, name = value if isinstance(value, bytes) else None, ""
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        data, value = value.get("bytes"), value.get("path")
        name = Path(value).name if isinstance(value, str) else ""
    if isinstance(data, bytes):
        return ImageCell(table / _folder_name(table, column) / (f"{number}-{name}" if name else str(number)), data)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: expected a path or the bytes of an image, found {type(value).__name__}")
    paths = texts_of(value, where)
    return ImageCell(table.parent / paths[0], None) if paths else None


def file_of(path: Path) -> Path:
    """The file that holds an image: the table, for an image in a table."""
    table = path.parent.parent
    return table if table.suffix.lower() == ".parquet" and table.is_file() else path


def image_bytes(path: Path) -> bytes:
    """The bytes of an image file or of an image in a table. Raises OSError if it cannot be read."""
    table = file_of(path)
    if table == path:
        return read_regular(path)
    import pyarrow as pa

    try:
        row = int(path.name.partition("-")[0]) - 1
        value = _cell(table, unquote(path.parent.name), row)
    except (ValueError, KeyError, IndexError, pa.ArrowException) as error:
        raise OSError(errno.EINVAL, f"cannot be read from the table: {first_line(error)}", str(path)) from None
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise OSError(errno.ENOENT, "no image in this row of the table", str(path))
    return data


def _cell(table: Path, column: str, row: int) -> Any:
    about = table.stat()
    with _READING:  # threads read neighbouring rows, so one of them reads the group
        for group, rows in enumerate(_group_sizes(table, about.st_mtime_ns, about.st_size)):
            if row < rows:
                return _group(table, about.st_mtime_ns, about.st_size, group, column)[row].as_py()
            row -= rows
    raise IndexError("it has fewer rows")


@lru_cache(maxsize=64)
def _folder_name(table: Path, column: Column) -> str:
    import pyarrow.parquet as pq

    names = pq.read_schema(table).names
    return quote(names[column.among(names, str(table)) or 0], safe="")


@lru_cache(maxsize=64)
def _group_sizes(table: Path, changed: int, size: int) -> list[int]:
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(table)
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


@lru_cache(maxsize=2)
def _group(table: Path, changed: int, size: int, group: int, column: str) -> pa.ChunkedArray:
    import pyarrow.parquet as pq

    return pq.ParquetFile(table).read_row_group(group, columns=[column]).column(column)
