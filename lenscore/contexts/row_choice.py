"""Which contexts of a corpus may become rows: the settings, and the tokens and sentences that they leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lenscore.contexts.choice_by_hash import Sampling, hashed_share
from lenscore.models.decoder import DEFAULT_MAX_TOKENS, most_tokens, text_config_of
from lenscore.models.text_only import known_bidirectional, no_text_ids
from storage_layouts.errors import InputError


@dataclass(frozen=True)
class RowChoice:
    """Which contexts are kept: `per_token` for each distinct token, by `sampling` and `seed` (see `ContextSampler`).

    `causal` models have states that depend only on their prefix. Positions before `first_position` are left out,
    sentences are cut after `max_tokens`. `fraction` is the share of sentences, chosen by a hash of seed and text;
    `limit` their number. Tokens whose text is one of the words `leave_out` never become rows. `as_latentlens`:
    `per_token` counts tokens that decode to the same text together, and special tokens in a sentence become rows too.
    """

    per_token: int = 20
    sampling: Sampling = "uniform"
    seed: int = 0
    causal: bool = True
    first_position: int = 0
    max_tokens: int = 512
    fraction: float = 1.0
    limit: int | None = None
    leave_out: frozenset[str] = frozenset()
    as_latentlens: bool = False


def row_choice_of(
    config: Any, causal: bool, positions: str, max_tokens: int | None, leave_out: str, **more: Any
) -> RowChoice:
    """The choice for a model by settings of lens extract, of which `more` are fields of `RowChoice`.

    Args:
        config: of the model, which takes `max_tokens`.
        causal: False if the user says that the model is not.
        positions: "all", or "from-2".
        max_tokens: None for the usual limit, or that of the model if it is lower.
        leave_out: words, separated by commas.
        more: further fields.

    """
    return RowChoice(
        causal=causal and not known_bidirectional(config),
        first_position=2 if positions == "from-2" else 0,
        max_tokens=max_tokens or min(DEFAULT_MAX_TOKENS, most_tokens(text_config_of(config))),
        leave_out=frozenset(word.strip() for word in leave_out.split(",") if word.strip()),
        **more,
    )


def excluded_tokens(tokenizer: Any, choice: RowChoice) -> np.ndarray:
    """Mask over all token ids: True for those that never become rows. InputError for a word that is no token."""
    mask = _special_tokens(tokenizer)
    if choice.as_latentlens:
        mask[:] = False
    if choice.leave_out:
        mask |= _tokens_of(choice.leave_out, tokenizer, len(mask))
    return mask


def chosen_sentences(texts: Sequence[str], choice: RowChoice) -> Sequence[int]:
    """Places of the texts that `RowChoice.fraction` leaves."""
    if choice.fraction >= 1:
        return range(len(texts))
    return [place for place, text in enumerate(texts) if hashed_share(choice.seed, text) < choice.fraction]


class TextGroups:
    """Gives token ids with the same text the same number: `groups` int64 [vocabulary], -1 if not yet seen."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self.groups = np.full(vocabulary, -1, dtype=np.int64)
        self._tokenizer = tokenizer
        self._numbers: dict[str, int] = {}

    def add(self, tokens: np.ndarray) -> None:
        """Give each of the tokens its number."""
        for token in np.unique(tokens[self.groups[tokens] < 0]).tolist():
            text = self._tokenizer.decode([token])
            self.groups[token] = self._numbers.setdefault(text, len(self._numbers))


def _special_tokens(tokenizer: Any) -> np.ndarray:
    """Mask over all token ids: True for special tokens."""
    ids = no_text_ids(tokenizer)
    mask = np.zeros(max([len(tokenizer) - 1, *ids]) + 1, dtype=bool)
    mask[list(tokenizer.all_special_ids)] = True
    mask[[i for i, token in tokenizer.added_tokens_decoder.items() if token.special]] = True
    return mask


def _tokens_of(words: frozenset[str], tokenizer: Any, size: int) -> np.ndarray:
    """Mask over all token ids: True for tokens whose text is one of the words. InputError for a word of no token."""
    texts = [text.strip() for text in tokenizer.batch_decode([[token] for token in range(size)])]
    if unknown := sorted(words.difference(texts)):
        raise InputError(
            f"--leave-out: {unknown[0]!r} is not one token of this model, so no row has it; expected whole words as "
            "they are in its vocabulary"
        )
    return np.array([text in words for text in texts])
