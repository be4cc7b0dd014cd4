"""Measures of the hidden state of every visual token at every layer of an analyze run.

    norms/part-00012.parquet            beside results/part-00012.parquet and in the same receipt; older runs have none
    cosines/part-00012.parquet          the same

Norms tell sink and dead tokens (lenscore/judging/norm_outliers.py). Cosines tell how similar a state still is to the
token's own state at the lowest visual layer of the run; lenscore/analysis/drift.py describes the shuffled baseline.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from storage_layouts.files import FileDigest
from storage_layouts.shards import shard_name
from storage_layouts.tables import write_table


def norm_schema(layers: int) -> pa.Schema:
    """Schema of the norms: one line per (image, view, row, col) with the L2 norm of its hidden state at each layer.

    ``layers`` is the number of visual layers of the run; ``norms`` is in their order.
    """
    return _schema(layers, "norms")


def cosine_schema(layers: int) -> pa.Schema:
    """Schema of the cosines: one line per (image, view, row, col) with a cosine for each visual layer, in their order.

    ``own`` is with the token's own state at the run's lowest layer, ``shuffled`` with that of another visual token of
    the image. NaN where there is no other, or where a state has length 0.
    """
    return _schema(layers, "own", "shuffled")


def norms_part(shard: int) -> str:
    """Path of a shard's norms inside the run folder."""
    return f"norms/part-{shard_name(shard)}.parquet"


def cosines_part(shard: int) -> str:
    """Path of a shard's cosines inside the run folder."""
    return f"cosines/part-{shard_name(shard)}.parquet"


def write_norms(path: Path | str, table: pa.Table) -> FileDigest:
    """Write a part of the norms; the length of the lists of ``norms`` (a fixed-size list column) is that of layers."""
    return write_table(path, table, norm_schema(table.schema.field("norms").type.list_size))


def write_cosines(path: Path | str, table: pa.Table) -> FileDigest:
    """Write a part of the cosines; the length of the lists of ``own`` (a fixed-size list column) is that of layers."""
    return write_table(path, table, cosine_schema(table.schema.field("own").type.list_size))


def _schema(layers: int, *measures: str) -> pa.Schema:
    place = [("image_id", pa.int32()), ("view", pa.int16()), ("row", pa.int16()), ("col", pa.int16())]
    return pa.schema([*place, *((name, pa.list_(pa.float32(), layers)) for name in measures)])
