"""What one lens says of chosen words, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class WordReading:
    """The scores and ranks of chosen words for every patch at every layer.

    Attributes:
        lens: its name.
        sought: what the lens looked up for each word, for people: its tokens, or the number of its rows; "" if the lens
            does not have the word.
        candidates: the number of tokens or rows among which words are ranked.
        scores: float32 [words, layers, patches]: cosines or logits; NaN for a word that the lens does not have.
        ranks: int64 of the same shape: 1 + the number of candidates with a higher score; 0 without a score.
        probabilities: float32 of the same shape, NaN for words of several tokens; None for a lens without them.
        contextual_layers: int16 of the same shape: where the best row comes from; None for a lens over tokens.

    """

    lens: str
    sought: tuple[str, ...]
    candidates: int
    scores: npt.NDArray[np.float32]
    ranks: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32] | None = None
    contextual_layers: npt.NDArray[np.int16] | None = None
