"""From the ids of a LensResults folder to words; each id is looked up once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lenscore.index.result_ids import IdNumbers, ResultIds
from lenscore.index.row_words import RowWord
from lenscore.readings.described_words import DescribedWords
from lenscore.readings.image_reading import Word
from lenscore.readings.words import candidate_text, character_span, token_in_text, token_word, whole_word
from storage_layouts.results import LensResults


class SharedWords:
    """The words of ids that were looked up already, for runs of one store or one vocabulary."""

    def __init__(self) -> None:
        self._known: list[tuple[object, dict[int, Word]]] = []

    def of(self, source: object) -> dict[int, Word]:
        """The known words by id, to be added to, of a `ResultIds.source`."""
        found = next((words for one, words in self._known if one == source), None)
        if found is None:
            found = {}
            self._known.append((source, found))
        return found


class WordsOfIds:
    """Rows of the store and token ids as `Word`. Raises InputError if the store of the results is gone.

    Attributes:
        described: those with descriptions.

    """

    def __init__(self, results: LensResults, in_text: bool = False, shared: SharedWords | None = None) -> None:
        self._ids, shared = words_by_id(results, in_text), shared or SharedWords()
        self.described = DescribedWords()
        self._known: dict[bool, tuple[list[Word], IdNumbers]] = {kind: ([], IdNumbers()) for kind in (False, True)}
        # Vocabularies are compared whole, so once.
        lenses = {self._ids.are_rows(lens): lens for lens in results.lenses}
        self._shared = {are_rows: shared.of(self._ids.source(lens)) for are_rows, lens in lenses.items()}

    def of(self, lens: str, ids: npt.NDArray[np.int32]) -> tuple[list[Word], npt.NDArray[np.int32]]:
        """Returns all words so far, a list that later calls extend, and the places there of ids (or -1)."""
        are_rows = self._ids.are_rows(lens)
        words, places = self._known[are_rows]

        def add(new: list[int]) -> range:
            known = self._shared[are_rows]
            missing = [one for one in new if one not in known]
            found = self._ids.look_up(lens, missing)
            if not are_rows:
                found = [Word(word.text, word.token, token_id=one) for word, one in zip(found, missing, strict=True)]
            known.update(zip(missing, found, strict=True))
            words.extend(map(known.__getitem__, new))
            return range(len(words) - len(new), len(words))

        return words, places.of(ids, add)


def words_by_id(results: LensResults, in_text: bool = False) -> ResultIds[Word]:
    """The ids of results as words, as in `candidate_text`; beside text, ids without text as in `texts_in_sequence`.

    Raises InputError if the store of the results is gone.
    """
    words = ResultIds(results, _row_as_word, token_as_word)
    known = enumerate(zip(words.tokens, results.token_bytes(), strict=True))
    words.tokens = [
        candidate_text(token, text, raw) or (f"#{token}" if in_text else "") for token, (text, raw) in known
    ]
    return words


def _row_as_word(row: RowWord) -> Word:
    return word_in_sentence(row.token, row.sentence, row.start, row.end, row.token_id)


def word_in_sentence(token: str, text: str, start: int, end: int, token_id: int = -1) -> Word:
    """Returns the whole word around the characters start..end of a sentence; its offsets exclude leading blanks."""
    token = token_in_text(token, text, start, end)
    word = whole_word(text, start, end)
    first, stop = character_span(text, start, end)
    if first == stop:  # blanks alone
        return Word(text[start:end], token, text, start, end, token_id)
    # Many tokenizers count the space before a word as its part.
    return Word(word, token, text, first, max(end, stop), token_id)


def token_as_word(token: str) -> Word:
    """Returns the `Word` of a decoded token of the vocabulary."""
    return Word(token_word(token) or token, token)
