"""From the ids and scores of the lenses to words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lenscore.analysis.lens_pass import LensPass
from lenscore.contexts.tokenization import character_spans
from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.row_words import RowWord
from lenscore.index.topk import TopK
from lenscore.models.decoder import DEFAULT_MAX_TOKENS
from lenscore.readings.image_reading import ExplainedReading, LensReading, NextTokenReading, Word
from lenscore.readings.words import token_text
from lenscore.viewer.words_of_ids import token_as_word, word_in_sentence

_Numbers = TypeVar("_Numbers", NextTokenReading, ExplainedReading)


def lens_readings(
    found: LensPass,
    tokenizer: Any,
    index: ContextualIndex | None,
    text_of: Callable[[Any, int], str] = token_text,
) -> tuple[LensReading, ...]:
    """The candidates of every lens, in the order of the lenses.

    Args:
        found: ids and scores.
        tokenizer: of the model.
        index: the contextual embeddings that lenses over a store searched; None if there was no such lens.
        text_of: makes the text of a token from the tokenizer and its id.

    """
    return tuple(
        replace(
            _candidates(lens, top, tokenizer, index, text_of),
            next_token=_numbers(NextTokenReading, found.next_tokens.get(lens)),
            explained=_numbers(ExplainedReading, found.explained.get(lens)),
        )
        for lens, top in found.tops.items()
    )


def _numbers(kind: Callable[..., _Numbers], found: Iterable[Tensor] | None) -> _Numbers | None:
    return None if found is None else kind(*(part.numpy() for part in found))


def _candidates(
    lens: str, top: TopK, tokenizer: Any, index: ContextualIndex | None, text_of: Callable[[Any, int], str]
) -> LensReading:
    ids, scores, contexts = (part.numpy() for part in (top.ids, top.scores, top.contextual_layers))
    if (contexts < 0).all():  # token ids
        known, which = np.unique(ids, return_inverse=True)
        vocabulary = set(tokenizer.get_vocab().values())
        texts = {i: text_of(tokenizer, i) if i in vocabulary else "" for i in known.tolist()}
        tokens = tuple(replace(token_as_word(text), token_id=i) for i, text in texts.items())
        return LensReading(lens, tokens, _shaped(which, ids), scores)
    assert index is not None
    # All layers have the same rows, except in caches of the latentlens library.
    differ = len({id(index.words(layer)) for layer in index.available_layers}) > 1
    pairs = np.stack([contexts.ravel() if differ else np.full(ids.size, contexts.min()), ids.ravel()], axis=1)
    known, which = np.unique(pairs, axis=0, return_inverse=True)
    words: list[Word] = []
    for layer in np.unique(known[:, 0]).tolist():  # ascending, as the pairs are
        found = index.words(layer).describe(known[known[:, 0] == layer, 1].tolist())
        words += [row_word(row, tokenizer) for row in found]
    return LensReading(lens, tuple(words), _shaped(which, ids), scores, contexts)


def row_word(row: RowWord, tokenizer: Any) -> Word:
    """Returns the row's word in its sentence; the tokenizer finds its characters if they were not stored."""
    start, end = row.start, row.end
    if start < 0:
        place = np.array([row.position])
        try:
            encoded = tokenizer(row.sentence, truncation=True, max_length=DEFAULT_MAX_TOKENS)["input_ids"]
            if encoded[row.position] != row.token_id:
                raise IndexError
            ((start, end),) = character_spans([row.sentence], [place], tokenizer, DEFAULT_MAX_TOKENS).tolist()
        except IndexError:  # made with another tokenizer: a sentence without a mark
            return Word(row.token.strip() or row.token, row.token, row.sentence, token_id=row.token_id)
    return word_in_sentence(row.token, row.sentence, start, end, row.token_id)


def _shaped(which: npt.NDArray[Any], ids: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    return which.reshape(ids.shape).astype(np.int32)
