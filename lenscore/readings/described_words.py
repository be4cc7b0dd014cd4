"""Descriptions of states as the sentences of best candidates, so that they are shown as those of LatentLens are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lenscore.readings.image_reading import LensReading, Word
from lenscore.readings.words import beginning


class DescribedWords:
    """Joins candidates and descriptions; the readings of a run share one growing list of words."""

    def __init__(self) -> None:
        self._words: list[Word] = []
        self._places: dict[Word, int] = {}

    def of(self, lens: LensReading, texts: Sequence[Sequence[str]]) -> LensReading:
        """A reading in which the best candidate at [layer][patch] has the text that stands there as its sentence."""
        used, places = lens.used()
        which = np.append([self._place(lens.words[place]) for place in used.tolist()], -1).astype(np.int32)[places]
        for layer, of_layer in enumerate(texts):
            for patch, text in enumerate(of_layer):
                best = int(lens.which[layer, patch, 0])
                if text.strip() and best >= 0:
                    which[layer, patch, 0] = self._place(_described(lens.words[best], text))
        return replace(lens, words=self._words, which=which)

    def _place(self, word: Word) -> int:
        if word not in self._places:
            self._places[word] = len(self._words)
            self._words.append(word)
        return self._places[word]


def _described(word: Word, text: str) -> Word:
    """The word with a text as its sentence, in which it is marked if it is its beginning."""
    start, end = beginning(text, word.text)
    return replace(word, sentence=text, start=start, end=end)
