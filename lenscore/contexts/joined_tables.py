"""The row table of several corpora together, from the row table of each: bottom-k samples can be merged.

What one extract keeps of all corpora, it keeps of each of them alone. So the rows of the parts are all candidates, and
the hashes of their prefixes, which no table holds, are computed again from their sentences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lenscore.contexts.context_table import SENTENCES_A_BATCH, RowTable
from lenscore.contexts.row_choice import RowChoice
from lenscore.contexts.sampling import Contexts, ContextSampler, prefix_contexts
from lenscore.contexts.tokenization import tokenize
from storage_layouts.added_stores import row_keys
from storage_layouts.errors import InputError


def join_tables(parts: Sequence[RowTable], tokenizer: object, choice: RowChoice) -> tuple[RowTable, list[int]]:
    """The rows that `choice` keeps of the corpora of all parts, read one after the other.

    Args:
        parts: the row table of each corpus, chosen by `choice` (of which `fraction` and `limit` may have differed).
        tokenizer: with which they were chosen.
        choice: of the rows.

    Returns:
        The row table, and for each part the number of its first sentence in it. A context of several corpora is in the
        sentence of the first one.

    Raises:
        InputError: the tokenizer gives other tokens than those in a table.
        CorruptError: the rows of a part are in another order.

    """
    # Sentences that --fraction left out have numbers too, but are not counted as read.
    sizes = [max(part.sentences_read, part.sentences["sentence_id"][-1].as_py() + 1) for part in parts]
    starts = [sum(sizes[:index]) for index in range(len(parts))]
    shifted = [_shifted(part, start) for part, start in zip(parts, starts, strict=True)]
    vocabulary = 1 + max(int(part.rows["token_id"].to_numpy().max()) for part in shifted)
    sampler = ContextSampler(choice.per_token, vocabulary, choice.sampling)
    for part in shifted:
        sampler.add(_contexts_of(part, tokenizer, choice))
    kept = sampler.kept()
    sentences = pa.concat_tables([part.sentences for part in shifted]).combine_chunks()
    rows = pa.concat_tables([part.rows for part in shifted]).combine_chunks()
    places = np.searchsorted(row_keys(rows, "the joined row table"), kept.sentence << 24 | kept.position)
    rows = rows.take(pa.array(places)).set_column(0, "row", pa.array(np.arange(len(places))))
    used = np.searchsorted(sentences["sentence_id"].to_numpy(), np.unique(kept.sentence))
    table = RowTable(
        rows,
        sentences.take(pa.array(used)),
        *(
            sum(getattr(part, count) for part in parts)
            for count in ("sentences_read", "contexts_seen", "sentences_cut")
        ),
    )
    return table, starts


def _shifted(part: RowTable, start: int) -> RowTable:
    """The same rows and sentences, with sentences numbered from `start` on."""

    def moved(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index("sentence_id")
        return table.set_column(place, "sentence_id", pa.array(table["sentence_id"].to_numpy() + start))

    counts = part.sentences_read, part.contexts_seen, part.sentences_cut
    texts = part.sentences["text"].cast(pa.large_string())  # as those of stores, see EmbeddingStore
    return RowTable(moved(part.rows), moved(part.sentences.set_column(1, "text", texts)), *counts)


def contexts_of_rows(rows: pa.Table, sentences: pa.Table, tokenizer: object, choice: RowChoice) -> Contexts:
    """The contexts at the places of the rows of a table, in their order, by the tokens that a tokenizer gives now.

    Where it gives others than when the table was made, tokens are others than those in the table, or some are missing.
    """
    wanted = row_keys(rows, "a row table")
    found = [prefix_contexts([], [], choice.seed)]
    for first in range(0, sentences.num_rows, SENTENCES_A_BATCH):
        some = sentences.slice(first, SENTENCES_A_BATCH)
        encoded = tokenize(some["text"].to_pylist(), tokenizer, choice.max_tokens)
        contexts = prefix_contexts(encoded, some["sentence_id"].to_numpy(), choice.seed, causal=choice.causal)
        places = np.searchsorted(wanted, contexts.sentence << 24 | contexts.position)
        is_row = wanted[np.minimum(places, len(wanted) - 1)] == (contexts.sentence << 24 | contexts.position)
        found.append(contexts.pick(is_row))
    return Contexts.concatenate(found)


def _contexts_of(part: RowTable, tokenizer: object, choice: RowChoice) -> Contexts:
    contexts = contexts_of_rows(part.rows, part.sentences, tokenizer, choice)
    if not np.array_equal(contexts.token, part.rows["token_id"].to_numpy()):
        raise InputError(
            "--model: its tokenizer gives other tokens than when the stores were made; use the versions named in their "
            "run.json"
        )
    return contexts
