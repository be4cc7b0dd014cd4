"""The files of a planning that several workers share, in its own run folder inside that of the store.

    store.zarr/planning/run.json plan.json receipts/   a run of its own, see runs.py
      pieces.json                    what is read of which file, piece by piece
      contexts/00012.parquet         the contexts that shard 12, a piece or a merge of others, keeps
      spans/00012.parquet            characters of the kept contexts of a piece
      texts/00012.parquet            their sentences

It is removed when the store is complete.
"""

from __future__ import annotations

import pyarrow as pa

from storage_layouts.files import FileDigest, read_checked
from storage_layouts.run_identity import receipt_remedy
from storage_layouts.runs import Receipt, RunFolder
from storage_layouts.shards import shard_name
from storage_layouts.tables import parse_table, write_table

SPAN_FIELDS = [("char_start", pa.int32()), ("char_end", pa.int32())]
SCHEMAS = {
    "contexts": pa.schema(
        [
            ("token_id", pa.int32()),
            ("hash_0", pa.uint64()),
            ("hash_1", pa.uint64()),
            ("sentence", pa.int64()),
            ("position", pa.int32()),
            *SPAN_FIELDS,
        ]
    ),
    "spans": pa.schema(SPAN_FIELDS),
    "texts": pa.schema([("text", pa.string())]),
}


def write_planning_table(run: RunFolder, kind: str, shard: int, table: pa.Table) -> dict[str, FileDigest]:
    """Write a table of a kind of `SCHEMAS`. Returns its digest by its path, for the receipt."""
    name = _name(kind, shard)
    return {name: write_table(run.path / name, table, SCHEMAS[kind])}


def read_planning_table(run: RunFolder, kind: str, receipt: Receipt) -> pa.Table:
    """A table of a finished shard. CorruptError if it is missing or changed."""
    name = _name(kind, receipt.shard)
    path, remedy = run.path / name, receipt_remedy(receipt.shard)
    return parse_table(path, read_checked(path, receipt.files[name], remedy), SCHEMAS[kind])


def _name(kind: str, shard: int) -> str:
    return f"{kind}/{shard_name(shard)}.parquet"
