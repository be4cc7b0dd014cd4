"""From the ids of a LensResults folder to words; each id is looked up once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lenscore.index.row_words import RowWords
from lenscore.readings.image_reading import Word
from lenscore.readings.words import character_span, token_in_text, token_word, whole_word
from storage_layouts.results import LensResults


class WordsOfIds:
    """Rows of the store and token ids as `Word`. Raises InputError if the store of the results is gone."""

    def __init__(self, results: LensResults) -> None:
        self._tokens = results.token_words()
        self._of_rows = frozenset(results.store_lenses)
        store = results.store() if results.needs_store else None
        self._rows = RowWords.of_store(store) if store is not None else None
        self._known: dict[bool, tuple[list[Word], npt.NDArray[np.int32]]] = {}

    def of(self, lens: str, ids: npt.NDArray[np.int32]) -> tuple[list[Word], npt.NDArray[np.int32]]:
        """Returns all words so far, a list that later calls extend, and the places there of ids (or -1)."""
        is_row = lens in self._of_rows
        words, places = self._known.get(is_row, ([], np.zeros(0, np.int32)))
        places = np.append(places, np.full(max(0, int(ids.max(initial=-1)) + 1 - len(places)), -1, np.int32))
        met = np.zeros(len(places), bool)
        met[ids[ids >= 0]] = True
        new = np.flatnonzero(met & (places < 0))
        places[new] = len(words) + np.arange(len(new))
        words += self.look_up(lens, new.tolist())
        self._known[is_row] = words, places
        return words, np.append(places, np.int32(-1))[np.maximum(ids, -1)]

    def look_up(self, lens: str, ids: Sequence[int]) -> list[Word]:
        """Returns the words of distinct ids without keeping them, for tables larger than memory."""
        if lens not in self._of_rows:
            return [token_as_word(self._tokens[token]) for token in ids]
        if not ids:
            return []
        assert self._rows is not None
        return [word_in_sentence(r.token, r.sentence, r.start, r.end) for r in self._rows.describe(ids)]


def word_in_sentence(token: str, text: str, start: int, end: int) -> Word:
    """Returns the whole word around the characters start..end of a sentence; its offsets exclude leading blanks."""
    token = token_in_text(token, text, start, end)
    word = whole_word(text, start, end)
    first, stop = character_span(text, start, end)
    if first == stop:  # blanks alone
        return Word(text[start:end], token, text, start, end)
    return Word(word, token, text, first, max(end, stop))  # many tokenizers count the space before a word as its part


def token_as_word(token: str) -> Word:
    """Returns the `Word` of a decoded token of the vocabulary."""
    return Word(token_word(token) or token, token)
