"""A corpus as sequences of equal length, some of which are held out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenscore.contexts.choice_by_hash import hashed_share
from lenscore.contexts.context_table import SENTENCES_A_BATCH
from lenscore.contexts.tokenization import tokenize
from storage_layouts.counts import counted
from storage_layouts.errors import InputError

UNCUT = 2**30
"""More tokens than a text has."""


@dataclass(frozen=True)
class PackedText:
    """Token ids int32 [sequences, length] to train on and to evaluate on; `texts` is the number of texts read."""

    training: NDArray[np.int32]
    held_out: NDArray[np.int32]
    texts: int


def packed(
    texts: Iterable[str],
    tokenizer: Any,
    length: int,
    seed: int,
    held_out: float,
    progress: Callable[[str], None] = lambda message: None,
) -> PackedText:
    """Tokenise texts, join them in their order, and cut the stream into sequences; the rest at its end is dropped.

    Each text has the special tokens that the tokenizer adds, and ends with its end-of-text token if there is one.
    Whole texts are held out: those whose hash of (seed, text) is in the lowest share `held_out`, so equal texts are on
    one side. Raises InputError if either side has no sequence.
    """
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    sides: tuple[list[list[int]], list[list[int]]] = ([], [])
    count = tokens = 0
    stream = iter(texts)
    while batch := list(islice(stream, SENTENCES_A_BATCH)):
        for text, ids in zip(batch, tokenize(batch, tokenizer, UNCUT), strict=True):
            ids = ids if ids[-1:] == end else ids + end
            sides[hashed_share(seed, text) < held_out].append(ids)
            tokens += len(ids)
        count += len(batch)
        progress(f"planning: {counted(count, 'text')}, {counted(tokens, 'token')} read")
    training, held = (_cut(side, length) for side in sides)
    for name, found in (("to train on", training), ("held out", held)):
        if not len(found):
            raise InputError(
                f"--corpus: {counted(tokens, 'token')} in {counted(count, 'text')} leave no sequence of "
                f"{length} tokens {name}; expected more text, a smaller --tokens-per-sequence, or another --held-out"
            )
    return PackedText(training, held, count)


def _cut(texts: list[list[int]], length: int) -> NDArray[np.int32]:
    stream = np.fromiter((token for ids in texts for token in ids), np.int32)
    return stream[: len(stream) // length * length].reshape(-1, length)
