"""Parquet files whose bytes depend only on their rows and schema."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage_layouts.errors import CorruptError
from storage_layouts.files import FileDigest, write_atomic

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


def parquet_bytes(table: pa.Table, schema: pa.Schema) -> bytes:
    """Bytes of a Parquet file: the same for equal rows, however the table is chunked."""
    # One chunk per column, because page limits depend on the chunks of the table.
    table = with_schema(table, schema).combine_chunks()
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP,
        version="2.6",
        compression="zstd",
        compression_level=3,
        write_statistics=True,
    )
    return sink.getvalue().to_pybytes()


def write_table(path: Path, table: pa.Table, schema: pa.Schema) -> FileDigest:
    """Write a Parquet file. ValueError if the table does not fit the schema; other errors as `write_atomic`."""
    return write_atomic(path, parquet_bytes(table, schema))


def parse_table(path: Path, data: bytes, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Table in the bytes of a Parquet file, all or some columns of ``schema``.

    CorruptError (with ``path``) if it is not a Parquet file, or one of another schema.
    """
    names = schema.names if columns is None else columns
    expected = pa.schema([schema.field(name) for name in names])
    try:
        return pq.read_table(pa.BufferReader(_arrows_own(data)), columns=names).select(names).cast(expected)
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
    """A column of lists of k values as an array ``[lines, k]``."""
    values: np.ndarray = column.combine_chunks().flatten().to_numpy()
    return values.reshape(len(column), -1)
