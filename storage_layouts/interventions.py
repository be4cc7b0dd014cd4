"""Effects of interventions: tables of an intervene run, one line for each changed forward pass."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from storage_layouts.files import FileDigest, read_checked
from storage_layouts.run_identity import receipt_remedy
from storage_layouts.runs import RunFolder
from storage_layouts.shards import part_name
from storage_layouts.tables import parse_table, write_table

FOLDER = "effects"

EFFECTS = pa.schema(
    [
        ("image_id", pa.int32()),
        ("target", pa.string()),  # patch, object, all
        ("number", pa.int32()),  # of the patch in the order of the geometry, or of the object; 0 for all
        ("tokens", pa.int32()),
        ("layer", pa.int16()),
        ("lens", pa.string()),  # "" for a substitute without a lens
        ("substitute", pa.string()),
        ("next_divergence", pa.float32()),  # KL(unchanged || changed) of the first token of the answer, nats
        ("divergence", pa.float32()),  # the same, mean over the tokens of the answer
        ("log_likelihood", pa.float32()),  # of the answer, changed minus unchanged, nats
        ("word", pa.int32()),  # token of the lens's best candidate at the target's first token; -1 without
        ("word_probability", pa.float32()),  # of it, mean over the answer, changed minus unchanged; NaN without
    ]
)


def write_effects(run: Path, shard: int, table: pa.Table) -> dict[str, FileDigest]:
    """Write the part of a shard; returns its digest by its name in the run folder."""
    name = part_name(FOLDER, shard)
    return {name: write_table(run / name, table, EFFECTS)}


def read_effects(run: RunFolder) -> pa.Table:
    """All effects of a complete run, as in `EFFECTS`, in the order of the images."""
    run.require_complete()
    tables = [EFFECTS.empty_table()]
    for receipt in run.receipts():
        name = part_name(FOLDER, receipt.shard)
        data = read_checked(run.path / name, receipt.files[name], receipt_remedy(receipt.shard))
        tables.append(parse_table(run.path / name, data, EFFECTS))
    return pa.concat_tables(tables)
