"""Cosines: how like its own first state every visual token still is at every layer of an analyze run.

    cosines/part-00012.parquet          beside results/part-00012.parquet and in the same receipt; older runs have none

The first state is that of the lowest visual layer of the run. lenscore/analysis/drift.py says what the shuffled
baseline is.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from storage_layouts.files import FileDigest
from storage_layouts.shards import shard_name
from storage_layouts.tables import write_table


def cosine_schema(layers: int) -> pa.Schema:
    """Schema of the cosines: one line per (image, view, row, col) with a cosine for each visual layer, in their order.

    ``own`` is with the token's own state at the run's lowest layer, ``shuffled`` with that of another visual token of
    the image. NaN where there is no other, or where a state has length 0.
    """
    return pa.schema(
        [
            ("image_id", pa.int32()),
            ("view", pa.int16()),
            ("row", pa.int16()),
            ("col", pa.int16()),
            ("own", pa.list_(pa.float32(), layers)),
            ("shuffled", pa.list_(pa.float32(), layers)),
        ]
    )


def cosines_part(shard: int) -> str:
    """Path of a shard's cosines inside the run folder."""
    return f"cosines/part-{shard_name(shard)}.parquet"


def write_cosines(path: Path | str, table: pa.Table) -> FileDigest:
    """Write a part of the cosines; the length of the lists of ``own`` (a fixed-size list column) is that of layers."""
    return write_table(path, table, cosine_schema(table.schema.field("own").type.list_size))
