"""Effects of interventions: tables of an intervene run, one line for each changed forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        # patch, object, all, surrounding, border, sink; object-background and so on: as many patches of the background
        ("target", pa.string()),
        ("number", pa.int32()),  # of the patch in the order of the geometry, or of the object; 0 for others
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


EDITS = pa.schema(
    [
        ("image_id", pa.int32()),
        ("edit", pa.string()),  # erase, write
        ("word", pa.string()),
        ("tokens", pa.int32()),  # visual tokens that were moved
        ("layer", pa.int16()),
        ("lens", pa.string()),
        ("direction", pa.string()),  # word, other-word, random, other-patches
        ("dose", pa.float32()),
        ("next_divergence", pa.float32()),  # these three as in EFFECTS
        ("divergence", pa.float32()),
        ("log_likelihood", pa.float32()),
        ("word_probability", pa.float32()),  # of the word's first tokens, mean over the answer, changed minus unchanged
        ("answer", pa.int32()),  # number of what the model generates then, in ANSWERS
        ("said_before", pa.bool_()),  # whether the generated answer of the unchanged pass has the word
        ("said", pa.bool_()),  # whether this one has it
    ]
)

ANSWERS = pa.schema(
    [
        ("image_id", pa.int32()),
        ("answer", pa.int32()),  # 0 for that of the unchanged pass
        ("text", pa.string()),
    ]
)

KNOCKOUTS = pa.schema(
    [
        *[EFFECTS.field(name) for name in ("image_id", "target", "number", "tokens")],
        ("from", pa.string()),  # the positions that do not attend to the target: answer, later
        ("layer", pa.int16()),  # the first one where they do not
        ("layers", pa.int16()),  # how many there are
        *[EFFECTS.field(name) for name in ("next_divergence", "divergence", "log_likelihood")],
    ]
)

ATTENTION = pa.schema(
    [
        ("image_id", pa.int32()),
        ("number", pa.int16()),  # of the token in the answer
        ("token", pa.int32()),
        ("text", pa.string()),  # of the token
        ("kind", pa.string()),  # attention: of the block at the layer; rollout: of all blocks up to it
        ("layer", pa.int16()),
        # from where the token is predicted to each visual token, in the order of the geometry
        ("weights", pa.list_(pa.float32())),
    ]
)

TABLES = {
    FOLDER: EFFECTS,
    "edits": EDITS,
    "answers": ANSWERS,
    "knockouts": KNOCKOUTS,
    "attention": ATTENTION,
}
"""The tables of a run, by their folder; each shard writes a part of every one."""


def write_tables(run: Path, shard: int, tables: Mapping[str, list[dict[str, Any]]]) -> dict[str, FileDigest]:
    """Write a shard's part of each table from its lines; returns digests by the names of files in the run folder."""
    files = {}
    for folder, schema in TABLES.items():
        name = part_name(folder, shard)
        files[name] = write_table(run / name, pa.Table.from_pylist(tables[folder], schema=schema), schema)
    return files


def read_effects(run: RunFolder) -> pa.Table:
    """All effects of substitutions in a complete run, as in `EFFECTS`, in the order of the images."""
    return _read(run, FOLDER)


def read_edits(run: RunFolder) -> pa.Table:
    """All words that were erased or written in a complete run, as in `EDITS`, in the order of the images."""
    return _read(run, "edits")


def read_answers(run: RunFolder) -> pa.Table:
    """The different answers that the model generated for each image of a complete run, as in `ANSWERS`."""
    return _read(run, "answers")


def read_knockouts(run: RunFolder) -> pa.Table:
    """All effects of blocked attention in a complete run, as in `KNOCKOUTS`, in the order of the images."""
    return _read(run, "knockouts")


def read_attention(run: RunFolder) -> pa.Table:
    """The attention of answers to visual tokens in a complete run, as in `ATTENTION`, in the order of the images."""
    return _read(run, "attention")


def _read(run: RunFolder, folder: str) -> pa.Table:
    run.require_complete()
    tables = [TABLES[folder].empty_table()]
    for receipt in run.receipts():
        name = part_name(folder, receipt.shard)
        if name not in receipt.files:  # a run of a version without this table
            continue
        data = read_checked(run.path / name, receipt.files[name], receipt_remedy(receipt.shard))
        tables.append(parse_table(run.path / name, data, TABLES[folder]))
    return pa.concat_tables(tables)
