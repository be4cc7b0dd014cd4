"""The result of a planning that several workers share, read from its run folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.planning_tree import PlanningTree
from lenscore.contexts.context_table import SampledContexts
from lenscore.contexts.corpus import FileCounts
from lenscore.contexts.corpus_file import CorpusFile
from lenscore.contexts.sampling import Contexts
from lenscore.user_files.notes import Notes
from storage_layouts.errors import InputError
from storage_layouts.planning_tables import read_planning_table
from storage_layouts.runs import RunFolder


@dataclass(frozen=True)
class PlannedContexts:
    """The result of a planning: the contexts with all spans, the texts of their sentences, notes on the corpus."""

    sampled: SampledContexts
    texts: list[str]
    notes: Notes


def planned_contexts(run: RunFolder, tree: PlanningTree, files: Sequence[CorpusFile]) -> PlannedContexts:
    """Read what pieces, merges and texts have left.

    Raises InputError if a file of the corpus changed since a piece of it was read; everything is to be done again then.
    """
    receipts = {receipt.shard: receipt for receipt in run.receipts()}
    read = [receipts[piece].facts for piece in tree.levels[0]]
    require_unchanged(run, files, read)
    root = receipts[tree.root]
    kept = contexts_of(read_planning_table(run, "contexts", root))
    counts = {name: count for name, count in root.facts.items() if name != "inputs"}
    described = [receipts[shard] for shard in tree.texts]
    spans = [read_planning_table(run, "spans", receipt) for receipt in described]
    span = np.concatenate([np.stack([column.to_numpy() for column in table.columns], axis=1) for table in spans])
    texts = [text for receipt in described for text in read_planning_table(run, "texts", receipt)["text"].to_pylist()]
    return PlannedContexts(SampledContexts(replace(kept, span=span), **counts), texts, _notes(files, read))


def require_unchanged(run: RunFolder, files: Sequence[CorpusFile], read: Iterable[dict[str, Any]]) -> None:
    """Raises InputError if a file is no longer as it was when a piece of it was read; all is to be done again then.

    Files of corpora by name may lie elsewhere on another machine; their content is compared when the plan is written.
    """
    for number, size, modified in chain.from_iterable(facts["read"] for facts in read):
        file = files[number]
        if file.record is None and file.state() != (size, modified):
            for shard in run.done():
                run.receipt_path(shard).unlink(missing_ok=True)
            raise InputError(f"--corpus {file.path}: changed while it was being planned; repeat the command")


def _notes(files: Sequence[CorpusFile], pieces: Iterable[dict[str, Any]]) -> Notes:
    """What reading the whole corpus in turn would have noted."""
    counts = [FileCounts() for _ in files]
    for number, of_part in chain.from_iterable(piece["counts"] for piece in pieces):
        counts[number].add(FileCounts(**of_part))
    notes = Notes()
    for file, count in zip(files, counts, strict=True):
        count.note(file, notes)
    return notes


def contexts_table(contexts: Contexts) -> pa.Table:
    """Contexts as a table of `storage_layouts.planning_tables`."""
    return pa.table(
        {
            "token_id": contexts.token,
            "hash_0": contexts.hash[:, 0],
            "hash_1": contexts.hash[:, 1],
            "sentence": contexts.sentence,
            "position": contexts.position,
            "char_start": contexts.span[:, 0],
            "char_end": contexts.span[:, 1],
        }
    )


def contexts_of(table: pa.Table) -> Contexts:
    """The inverse of `contexts_table`."""
    token, *hashes, sentence, position, start, end = (column.to_numpy() for column in table.columns)
    return Contexts(token, np.stack(hashes, axis=1), sentence, position, np.stack([start, end], axis=1))
