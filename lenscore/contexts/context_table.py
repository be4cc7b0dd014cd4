"""The row table of an embedding store: which (token, sentence, position) become rows, chosen without a model.

The first pass over the corpus chooses contexts from token ids, the second collects their sentences. Character offsets
are found in the first pass at the start of a corpus, where most sentences are kept, and in the second pass
beyond, where few are. A sentence that is repeated is not tokenised again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from lenscore.contexts.corpus import corpus_changed
from lenscore.contexts.row_choice import RowChoice, TextGroups, chosen_sentences, excluded_tokens
from lenscore.contexts.sampling import Contexts, ContextSampler, prefix_contexts
from lenscore.contexts.tokenization import character_spans, tokenize, tokenize_with_spans
from storage_layouts.counts import counted
from storage_layouts.errors import InputError

SENTENCES_A_BATCH = 8192

SMALL = 2**23
"""Tokens at the start of a corpus whose characters are found in the first pass."""
REMEMBERED = 2**18
"""Distinct sentences whose repetitions are recognised, before they are forgotten."""


@dataclass(frozen=True)
class RowTable:
    """The chosen rows and their sentences.

    `rows`: row, token_id, token, sentence_id, position, char_start, char_end, ordered by sentence and position.
    `sentences`: sentence_id, text, ordered by sentence_id, which counts the sentences of the corpus.
    `sentences_cut` are those with more than `RowChoice.max_tokens` tokens.
    """

    rows: pa.Table
    sentences: pa.Table
    sentences_read: int
    contexts_seen: int
    sentences_cut: int


@dataclass(frozen=True)
class SampledContexts:
    """What is kept of the contexts of some sentences, and counts of what was read.

    `kept` is ordered by sentence and position, and has a `span` for contexts among the first tokens that were read.
    `numbered` counts all sentences, `sentences_read` those that `RowChoice.fraction` left, `contexts_seen` and
    `sentences_cut` also what repeats an earlier sentence.
    """

    kept: Contexts
    numbered: int
    sentences_read: int
    contexts_seen: int
    sentences_cut: int


def choose_rows(
    corpus: Callable[[], Iterator[str]],
    tokenizer: Any,
    choice: RowChoice,
    progress: Callable[[str], None] = lambda message: None,
) -> RowTable:
    """Stream `corpus()` twice, and return the rows that `choice` keeps.

    Special tokens (BOS, padding, image placeholders) never become rows, unless `RowChoice.as_latentlens`. Memory
    depends on the rows that are kept, and on no more of the corpus than `REMEMBERED` sentences. Raises InputError if
    the corpus has no usable token.
    """
    sampled = sample_contexts(islice(corpus(), choice.limit), tokenizer, choice, progress, SMALL)
    require_contexts(sampled)
    progress(f"planning: {counted(len(sampled.kept), 'row')} chosen; collecting their sentences")
    texts, kept = describe(islice(corpus(), choice.limit), tokenizer, choice, sampled.kept)
    return row_table(tokenizer, replace(sampled, kept=kept), texts)


def sample_contexts(
    texts: Iterable[str],
    tokenizer: Any,
    choice: RowChoice,
    progress: Callable[[str], None],
    spans_until: int,
) -> SampledContexts:
    """The contexts that `choice` keeps of some sentences, which are numbered from 0 on.

    The characters of tokens are only found for those in the first `spans_until` tokens.
    """
    special = excluded_tokens(tokenizer, choice)
    by_text = TextGroups(tokenizer, len(special)) if choice.as_latentlens else None
    sampler = ContextSampler(
        choice.per_token, len(special), choice.sampling, groups=by_text.groups if by_text else None
    )
    known: dict[str, tuple[int, bool]] = {}  # contexts of a sentence, and whether it was cut
    numbered = sentences_read = contexts_seen = sentences_cut = tokens = 0
    for first, batch in _batches(texts):
        numbered = first + len(batch)
        chosen = chosen_sentences(batch, choice)
        if len(known) > REMEMBERED:
            known.clear()
        new: dict[str, int] = {}
        for place in chosen:
            if batch[place] not in known:
                new.setdefault(batch[place], first + place)
        unknown = list(new)
        spans = None
        if tokens < spans_until:
            encoded, spans = tokenize_with_spans(unknown, tokenizer, choice.max_tokens)
        else:
            encoded = tokenize(unknown, tokenizer, choice.max_tokens)
        ids = np.fromiter(new.values(), np.int64, len(new))
        contexts = prefix_contexts(
            encoded, ids, choice.seed, causal=choice.causal, first_position=choice.first_position, spans=spans
        )
        contexts = contexts.pick(~special[contexts.token])
        if by_text:
            by_text.add(contexts.token)
        sampler.add(contexts)
        tokens += sum(map(len, encoded))
        counts = np.bincount(np.searchsorted(ids, contexts.sentence), minlength=len(ids)).tolist()
        known |= zip(
            unknown, zip(counts, _is_cut(unknown, encoded, tokenizer, choice.max_tokens), strict=True), strict=True
        )
        sentences_read += len(chosen)
        for count, is_cut in (known[batch[place]] for place in chosen):
            contexts_seen += count
            sentences_cut += is_cut
        cut = "".join(f"; {line}" for line in cut_sentences(sentences_cut, choice.max_tokens))
        progress(f"planning: {counted(sentences_read, 'sentence')}, {counted(contexts_seen, 'token')} read{cut}")
    return SampledContexts(sampler.kept(), numbered, sentences_read, contexts_seen, sentences_cut)


def require_contexts(sampled: SampledContexts) -> None:
    """Raises InputError if nothing was read, or nothing is kept of a corpus."""
    if not sampled.sentences_read:
        raise InputError("--corpus: holds no sentence (or --fraction left none)")
    if not len(sampled.kept):
        raise InputError("--corpus: holds no token that could become a row (only special tokens, or too short)")


def describe(corpus: Iterable[str], tokenizer: Any, choice: RowChoice, kept: Contexts) -> tuple[list[str], Contexts]:
    """Texts of the sentences of `kept`, in their order, and `kept` with all spans.

    `kept` counts the sentences of `corpus` from 0 on and is ordered by them. Raises InputError if the corpus is not the
    one that was sampled.
    """
    sentence_ids, first_row = np.unique(kept.sentence, return_index=True)
    bounds = np.append(first_row, len(kept))
    texts: list[str] = []
    span = kept.span.copy()
    for batch in _lists(_wanted(corpus, sentence_ids)):
        first = len(texts)
        texts += batch
        rows = bounds[first : len(texts) + 1]
        missing = [i for i in range(len(batch)) if (span[rows[i] : rows[i + 1]] < 0).any()]
        positions = [kept.position[rows[i] : rows[i + 1]] for i in missing]
        try:
            found = character_spans([batch[i] for i in missing], positions, tokenizer, choice.max_tokens)
        except IndexError:  # a sentence that became shorter
            raise corpus_changed() from None
        if missing:
            span[np.concatenate([np.arange(rows[i], rows[i + 1]) for i in missing])] = found
    if len(texts) != len(sentence_ids):
        raise corpus_changed()
    return texts, replace(kept, span=span)


def row_table(tokenizer: Any, sampled: SampledContexts, texts: list[str]) -> RowTable:
    """The rows of contexts with all spans; `texts` are those of their sentences, in order."""
    kept = sampled.kept
    names = {int(token): tokenizer.decode([int(token)]) for token in np.unique(kept.token)}
    rows = pa.table(
        {
            "row": pa.array(np.arange(len(kept), dtype=np.int64)),
            "token_id": pa.array(kept.token),
            "token": pa.array([names[int(token)] for token in kept.token], pa.string()),
            "sentence_id": pa.array(kept.sentence),
            "position": pa.array(kept.position),
            "char_start": pa.array(kept.span[:, 0]),
            "char_end": pa.array(kept.span[:, 1]),
        }
    )
    sentences = pa.table({"sentence_id": pa.array(np.unique(kept.sentence)), "text": pa.array(texts, pa.string())})
    return RowTable(rows, sentences, sampled.sentences_read, sampled.contexts_seen, sampled.sentences_cut)


def cut_sentences(count: int, max_tokens: int) -> list[str]:
    """A line about the sentences that are longer than `max_tokens`, if there are any."""
    return [f"sentences cut after {max_tokens:,} tokens: {count:,}"] if count else []


def _is_cut(texts: list[str], encoded: list[list[int]], tokenizer: Any, max_tokens: int) -> list[bool]:
    cut = [False] * len(texts)
    full = [place for place, ids in enumerate(encoded) if len(ids) >= max_tokens]
    longer = tokenize([texts[place] for place in full], tokenizer, max_tokens + 1)
    for place, ids in zip(full, longer, strict=True):
        cut[place] = len(ids) > max_tokens
    return cut


def _lists(texts: Iterable[str]) -> Iterator[list[str]]:
    texts = iter(texts)
    while batch := list(islice(texts, SENTENCES_A_BATCH)):
        yield batch


def _batches(texts: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Batches of sentences, each with the number of its first one."""
    number = 0
    for batch in _lists(texts):
        yield number, batch
        number += len(batch)


def _wanted(texts: Iterable[str], ids: np.ndarray) -> Iterator[str]:
    """The texts whose numbers are in `ids`, which ascend."""
    numbers = iter(ids)
    wanted = next(numbers, -1)
    for number, text in enumerate(texts):
        if wanted < 0:
            return
        if number == wanted:
            yield text
            wanted = next(numbers, -1)
