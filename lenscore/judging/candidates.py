"""The candidate words of a patch: the top ids of a lens, in rank order, as words that a judge can read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from lenscore.index.result_ids import ResultIds
from lenscore.index.row_words import RowWord
from lenscore.readings.words import beginning, sentence_with_mark, token_word, whole_word
from storage_layouts.results import LensResults


class CandidateWords:
    """Turns the ids of a LensResults folder into words. Raises InputError if its store is gone.

    With ``describe="phrase"`` rows of the store become sentences with the word marked; tokens have no sentence and stay
    tokens.

    Attributes:
        ids: the word of each id, "" where there is none; nothing is kept for further calls.

    """

    def __init__(self, results: LensResults, describe: Literal["word", "phrase"] = "word") -> None:
        self.ids = ResultIds(results, _phrase if describe == "phrase" else _word, token_word)
        self._known: dict[int, str] = {}

    def of(self, lens: str, ids: npt.NDArray[np.int32]) -> tuple[str, ...]:
        """The words of one patch: ``ids`` int32 ``[k]``, best first. Leaves out empty words and the padding id -1."""
        return tuple(word for word in self.each(lens, ids[ids >= 0].tolist()) if word)

    def each(self, lens: str, ids: Sequence[int]) -> list[str]:
        """The word of each id, "" where there is none. One call with many ids is faster than many calls."""
        if not self.ids.are_rows(lens):
            return self.ids.look_up(lens, ids)
        new = [row for row in dict.fromkeys(ids) if row not in self._known]
        self._known.update(zip(new, self.ids.look_up(lens, new), strict=True))
        return [self._known[row] for row in ids]

    def vocabulary(self) -> list[str]:
        """The vocabulary for random words: the store's whole words, or all tokens if there is no store."""
        rows = self.ids.rows
        words = map(token_word, self.ids.tokens) if rows is None else map(_word, rows.describe(range(len(rows))))
        return sorted({word.casefold() for word in words} - {""})


def _word(row: RowWord) -> str:
    """The whole word that holds the row's token."""
    return whole_word(row.sentence, row.start, row.end)


def _phrase(row: RowWord) -> str:
    """The row's sentence with that word in square brackets: "a red [car] on a road"; "" where there is no word."""
    return sentence_with_mark(row.sentence, row.start, row.end) if _word(row) else ""


def described_words(words: tuple[str, ...], best: tuple[str, ...], text: str) -> tuple[str, ...]:
    """Words of a patch, with the text that describes it in place of the best one, which is marked in it.

    `best` holds the best candidate, if it is a word. A blank text describes nothing.
    """
    text = " ".join(text.split())
    if not text:
        return words
    start, end = beginning(text, best[0]) if best else (0, 0)
    marked = f"[{text[start:end]}]{text[end:]}" if start < end else text
    return (marked, *words[len(best) :])


def random_words(vocabulary: Sequence[str], count: int, name: str) -> tuple[str, ...]:
    """``count`` distinct words (all, if there are fewer), drawn uniformly by the hash of ``name``."""
    count = min(count, len(vocabulary))
    stream = hashlib.shake_256(f"lenscore.judging/random-words/{name}".encode())
    length = 16 * count
    while True:
        numbers = np.frombuffer(stream.digest(length), dtype="<u8")
        chosen = list(dict.fromkeys((numbers % len(vocabulary)).tolist()))[:count]
        if len(chosen) == count:
            return tuple(vocabulary[i] for i in chosen)
        length *= 2
