"""The score and the rank of any word at hidden states, also outside the best candidates of a lens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from lenscore.lenses.lens import Lens

WordIds = Mapping[int, Sequence[int]]
"""The ids of a word, by contextual layer: rows of the store; token ids stand under `NO_CONTEXTUAL_LAYER`."""


class WordScores(NamedTuple):
    """What a lens says of some words at every state.

    Attributes:
        scores: float32 [words, layers, n], cosines or logits.
        ranks: int64 [words, layers, n], 1 + the number of candidates of the lens with a higher score.
        candidates: their number.
        log_normalizers: float32 [layers, n] in nats, of lenses whose scores are logits of the next token: the
            probability of a token is exp(score - log_normalizer). Else None.
        contextual_layers: int16 [words, layers, n], where the best row comes from; None for lenses over tokens.

    """

    scores: Tensor
    ranks: Tensor
    candidates: int
    log_normalizers: Tensor | None = None
    contextual_layers: Tensor | None = None


@runtime_checkable
class WordLens(Lens, Protocol):
    """A lens that can be asked for words."""

    def score_words(self, states: Tensor, layers: Sequence[int], words: Sequence[WordIds]) -> WordScores:
        """The scores of words at states [len(layers), n, dim], as in `Lens.top`.

        The score of a word of several tokens is the mean of the scores of its tokens, that of a word of several rows
        the largest of their scores. Raises InputError for a token that is no candidate of the lens, ValueError for
        scores that are not finite.
        """
        ...


def scores_words(lens: type[Lens]) -> bool:
    """Whether a lens is a `WordLens`."""
    return hasattr(lens, WordLens.score_words.__name__)
