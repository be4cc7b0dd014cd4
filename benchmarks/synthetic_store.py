"""A store of one layer with random codes, in the real format and of any size; no model is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.quantize import Encoded
from storage_layouts.row_tables import write_rows_part, write_sentences
from storage_layouts.runs import Plan, Receipt, RunFolder, Shard
from storage_layouts.store_layout import StoreLayout

LAYER = 8
FILL = 127
"""The code that no row has, and neither 255."""
SCALE = 1 / 100
"""With it rows have a length of about 1."""


def write_store(path: Path, rows: int, dim: int, rows_per_shard: int) -> EmbeddingStore:
    """Write a complete store and return it.

    Args:
        path: a new folder.
        rows: number of embeddings.
        dim: width of an embedding.
        rows_per_shard: shard size.

    """
    layout = StoreLayout((LAYER,), rows, dim, "float8_e4m3fn", rows_per_shard)
    run = RunFolder.create(path, "extract", {"rows": rows}, {})
    files = EmbeddingStore.write_skeleton(path, layout)
    for shard in Plan(rows, rows_per_shard).shards():
        name = f"rows/part-{shard.name}.parquet"
        files[name] = write_rows_part(path / name, _row_table(shard))
    texts = pa.table({"sentence_id": pa.array([0], pa.int64()), "text": ["synthetic"]})
    files["sentences.parquet"] = write_sentences(path / "sentences.parquet", texts)
    run.write_plan(rows, rows_per_shard, files, {})
    store = EmbeddingStore.open(path, allow_incomplete=True)
    store.set_outlier_dims(LAYER, range(layout.outlier_count))
    rng = np.random.default_rng(0)
    for shard in run.require_plan().shards():
        n = shard.items
        codes = rng.integers(0, 255, (n, dim), dtype=np.uint8)
        codes[codes == FILL] = 0
        codes[:, : layout.outlier_count] = 0  # they are stored separately
        outliers = np.full((n, layout.outlier_count), 0.01, np.float32)
        encoded = Encoded(codes, outliers, np.full(n, SCALE / dim**0.5, np.float32), np.ones(n, np.float32))
        run.write_receipt(Receipt(shard.index, n, store.write_shard(shard, [(LAYER, encoded)])))
    return EmbeddingStore.open(path)


def _row_table(shard: Shard) -> pa.Table:
    rows = np.arange(shard.first, shard.first + shard.items, dtype=np.int64)
    token = (rows % 26_862).astype(np.int32)
    small = (rows % 7).astype(np.int32)
    return pa.table(
        {
            "row": rows,
            "token_id": token,
            "token": pa.array(token).cast(pa.string()),
            "sentence_id": np.zeros_like(rows),
            "position": small,
            "char_start": small,
            "char_end": small + 1,
        }
    )
