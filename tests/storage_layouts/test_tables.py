"""Tables leave nothing of Python's behind in Arrow's threads."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa

from storage_layouts.tables import parquet_bytes, parse_table


def test_arrow_holds_nothing_of_the_bytes_when_a_table_has_been_read() -> None:
    """Its threads would need the interpreter to let go of them, and abort a process that is just ending."""
    table = pa.table({f"column {number}": list(range(500)) for number in range(6)})
    data = parquet_bytes(table, table.schema)
    held = sys.getrefcount(data)
    for _ in range(500):  # of Python's own bytes about every twentieth reading still held some
        assert parse_table(Path("table.parquet"), data, table.schema) == table
        assert sys.getrefcount(data) == held
