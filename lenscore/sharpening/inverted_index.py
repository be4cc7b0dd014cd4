"""Which sentences of a corpus hold which words, in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lenscore.contexts.choice_by_hash import hashed_share
from lenscore.readings.words import WORD, folded


class InvertedIndex:
    """The distinct sentences of a corpus, and for each word (`folded`) the sentences that hold it.

    Memory: the texts, and four bytes for each distinct word of each sentence. Attributes: `texts`.
    """

    def __init__(self, texts: Iterable[str], seed: int) -> None:
        self.texts = list(dict.fromkeys(texts))
        self._sentences: dict[str, array[int]] = {}
        for number, text in enumerate(self.texts):
            for word in set(WORD.findall(folded(text))):
                self._sentences.setdefault(word, array("i")).append(number)
        self._order = np.array([hashed_share(seed, text) for text in self.texts])

    def holding(self, words: Sequence[str], least: int = 2) -> Iterator[str]:
        """The sentences that hold at least so many of some words: those with most first, then in the order of a hash.

        The hash is of the seed and the text.
        """
        lists = [np.frombuffer(self._sentences[word], np.int32) for word in set(words) if word in self._sentences]
        if len(lists) < least:
            return
        numbers, counts = np.unique(np.concatenate(lists), return_counts=True)
        numbers, counts = numbers[counts >= least], counts[counts >= least]
        for place in np.lexsort((self._order[numbers], -counts)):
            yield self.texts[numbers[place]]

    def at_random(self) -> Iterator[str]:
        """All sentences in the order of a hash, the one opposite to that of `holding`."""
        for number in np.argsort(-self._order, kind="stable"):
            yield self.texts[number]
