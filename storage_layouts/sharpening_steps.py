"""What the searches of a sharpen run found: tables, of which each shard, one search, writes a part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from storage_layouts.errors import IncompleteError
from storage_layouts.files import FileDigest, read_checked
from storage_layouts.run_identity import receipt_remedy
from storage_layouts.runs import RunFolder
from storage_layouts.shards import part_name, shard_name
from storage_layouts.tables import parse_table, write_table

STATES = "states.safetensors"
"""The states [layers, patches, dim] of the patches, which the first shard writes."""


def schemas(k: int) -> dict[str, pa.Schema]:
    """The tables by their folder, for searches of the k best rows."""
    return {
        "new": pa.schema([("sentence", pa.string())]),  # added by this search
        "hashes": pa.schema([("hash", pa.uint64())]),  # of the prefixes of the rows that were added; of the store's
        # The best rows so far, one line for each layer and patch. Added rows count from the last row of the store on.
        "best": pa.schema(
            [
                ("ids", pa.list_(pa.int32(), k)),
                ("scores", pa.list_(pa.float32(), k)),
                ("contextual_layers", pa.list_(pa.int16(), k)),
            ]
        ),
        "words": pa.schema(  # of the best rows
            [
                ("row", pa.int32()),
                ("token", pa.string()),
                ("sentence", pa.string()),
                ("position", pa.int32()),
                ("token_id", pa.int32()),
                ("start", pa.int32()),  # of the token in the sentence, in characters; -1 if unknown
                ("end", pa.int32()),
            ]
        ),
    }


def write_tables(run: Path, shard: int, k: int, tables: Mapping[str, pa.Table]) -> dict[str, FileDigest]:
    """Write a shard's part of each table; returns digests by the names of files in the run folder."""
    names = {folder: part_name(folder, shard) for folder in schemas(k)}
    return {
        name: write_table(run / name, tables[folder], schema)
        for (folder, name), schema in zip(names.items(), schemas(k).values(), strict=True)
    }


def read_tables(run: RunFolder, shard: int, k: int) -> dict[str, pa.Table]:
    """A shard's part of each table. IncompleteError if it is not done; CorruptError if a file was changed."""
    return {
        folder: parse_table(run.path / name, read_file(run, shard, name), schema)
        for folder, schema in schemas(k).items()
        for name in (part_name(folder, shard),)
    }


def read_file(run: RunFolder, shard: int, name: str) -> bytes:
    """The bytes of a file of a shard; errors as `read_tables`."""
    receipt = run.read_receipt(shard)
    if receipt is None:
        raise IncompleteError(f"{run.path}: shard {shard_name(shard)} is missing; repeat the command")
    return read_checked(run.path / name, receipt.files[name], receipt_remedy(shard))
