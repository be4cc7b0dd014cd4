"""Parquet files whose bytes depend only on their rows and schema."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage_layouts.errors import CorruptError
from storage_layouts.files import FileDigest, NewFile, atomic_file

ROW_GROUP = 1 << 17


def with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of ``schema`` in its order and types. ValueError if one is missing or does not fit."""
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise ValueError(f"columns {missing} are missing; found {table.column_names}")
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"the table does not fit its schema: {error}") from error


class TableWriter:
    """Writes a Parquet file piece by piece; see `table_writer`."""

    def __init__(self, file: NewFile, schema: pa.Schema) -> None:
        self._file, self._schema = file, schema
        self._writer = pq.ParquetWriter(
            file, schema, version="2.6", compression="zstd", compression_level=3, write_statistics=True
        )
        self._pending = schema.empty_table()
        self._is_empty = True

    @property
    def digest(self) -> FileDigest:
        """Digest of the bytes written so far; of the file, when it is closed."""
        return self._file.digest

    def add(self, table: pa.Table) -> None:
        """Append rows. ValueError if they do not fit the schema; other errors as `write_atomic`."""
        self._pending = pa.concat_tables([self._pending, with_schema(table, self._schema)])
        while len(self._pending) >= ROW_GROUP:
            self._write(self._pending[:ROW_GROUP])
            self._pending = self._pending[ROW_GROUP:]

    def close(self) -> None:
        """Write the last rows and the end of the file."""
        if len(self._pending) or self._is_empty:
            self._write(self._pending)
        self._writer.close()

    def abandon(self) -> None:
        """Give the file up; what is written to it does not matter any more."""
        with contextlib.suppress(Exception):
            self._writer.close()

    def _write(self, rows: pa.Table) -> None:
        # One chunk per column, because page limits depend on the chunks of the table.
        self._writer.write_table(rows.combine_chunks(), ROW_GROUP)
        self._is_empty = False


@contextlib.contextmanager
def table_writer(path: Path, schema: pa.Schema) -> Iterator[TableWriter]:
    """A Parquet file to write piece by piece, with less than a row group and the latest piece in memory.

    Its bytes are the same for equal rows, however they are divided. It gets its name at the end of the block; if the
    block raises, it is removed.
    """
    with atomic_file(path) as file:
        writer = TableWriter(file, schema)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abandon()
            raise


def write_table(path: Path, table: pa.Table, schema: pa.Schema) -> FileDigest:
    """Write a Parquet file. ValueError if the table does not fit the schema; other errors as `write_atomic`."""
    with table_writer(path, schema) as writer:
        for first in range(0, max(1, len(table)), ROW_GROUP):  # few enough for text with offsets of 32 bits
            writer.add(table.slice(first, ROW_GROUP))
    return writer.digest


def parse_table(path: Path, data: bytes, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Table in the bytes of a Parquet file, all or some columns of ``schema``.

    CorruptError (with ``path``) if it is not a Parquet file, or one of another schema.
    """
    names = schema.names if columns is None else columns
    expected = pa.schema([schema.field(name) for name in names])
    try:
        file = pq.ParquetFile(pa.BufferReader(_arrows_own(data)))  # pq.read_table imports pandas
        return file.read(columns=names).select(names).cast(expected)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise CorruptError(path, error, f"a Parquet table with {names}") from error


def _arrows_own(data: bytes) -> pa.Buffer:
    """The same bytes in Arrow's memory.

    Arrow's threads may release their input shortly after the read has returned. To release Python bytes they need the
    interpreter; if it is shutting down at that moment, they abort the process although its work is done.
    """
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return buffer


def matrix_of_lists(column: pa.ChunkedArray) -> np.ndarray:
    """A column of fixed-size lists of k values as an array ``[lines, k]``."""
    values: np.ndarray = column.combine_chunks().flatten().to_numpy()
    return values.reshape(len(column), column.type.list_size)
