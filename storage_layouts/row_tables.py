"""The row table (in parts) and the sentences of a store, as Parquet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from storage_layouts.files import FileDigest
from storage_layouts.tables import write_table

ROW_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("token_id", pa.int32()),
        ("token", pa.string()),
        ("sentence_id", pa.int64()),
        ("position", pa.int32()),
        ("char_start", pa.int32()),
        ("char_end", pa.int32()),
    ]
)
SENTENCE_SCHEMA = pa.schema([("sentence_id", pa.int64()), ("text", pa.string())])


def write_rows_part(path: Path, table: pa.Table) -> FileDigest:
    """Write a part of the row table (columns of `ROW_SCHEMA`)."""
    return write_table(path, table, ROW_SCHEMA)


def write_sentences(path: Path, table: pa.Table) -> FileDigest:
    """Write the sentences (columns of `SENTENCE_SCHEMA`, ascending ids)."""
    ids = table.column("sentence_id").to_numpy()
    if (np.diff(ids) <= 0).any():
        raise ValueError("the sentence ids are not ascending")
    return write_table(path, table, SENTENCE_SCHEMA)
