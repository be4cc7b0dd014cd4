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
        self._rows_known: dict[int, Word] = {}
        self._tokens_known: dict[int, Word] = {}

    def of(self, lens: str, ids: npt.NDArray[np.int32]) -> tuple[Word, ...]:
        """Returns the words of distinct ids, in their order, and keeps them."""
        known = self._rows_known if lens in self._of_rows else self._tokens_known
        keys = ids.tolist()
        new = [key for key in keys if key not in known]
        known.update(zip(new, self.look_up(lens, new), strict=True))
        return tuple([known[key] for key in keys])

    def look_up(self, lens: str, ids: Sequence[int]) -> list[Word]:
        """Returns the words of ids without keeping them, for tables larger than memory."""
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
