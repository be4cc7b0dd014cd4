"""The candidate words of a patch: what a lens says, in rank order, as words that a judge can read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from lenscore.readings.words import sentence_with_mark, whole_word
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.results import LensResults

LATENT = "latent"
"""The name of LatentLens."""

_SPACE_MARKERS = "▁Ġ"  # how sentencepiece and byte-level tokenizers write a leading space


class StoreWords:
    """The word and the sentence behind every row of an EmbeddingStore, found by the stored character offsets."""

    def __init__(self, store: EmbeddingStore) -> None:
        rows = store.row_table(columns=["sentence_id", "char_start", "char_end"])
        sentences = store.sentences()
        self._sentence = np.searchsorted(sentences["sentence_id"].to_numpy(), rows["sentence_id"].to_numpy())
        self._start = rows["char_start"].to_numpy()
        self._end = rows["char_end"].to_numpy()
        self._texts = sentences["text"]

    def __len__(self) -> int:
        return len(self._sentence)

    def word(self, row: int) -> str:
        """The whole word that holds the row's token."""
        text, start, end = self.place(row)
        return whole_word(text, start, end)

    def phrase(self, row: int) -> str:
        """The row's sentence with that word in square brackets: "a red [car] on a road"; "" where there is no word."""
        text, start, end = self.place(row)
        return sentence_with_mark(text, start, end) if whole_word(text, start, end) else ""

    def place(self, row: int) -> tuple[str, int, int]:
        """The row's sentence and the character offsets of its token in it."""
        return self._texts[int(self._sentence[row])].as_py(), int(self._start[row]), int(self._end[row])

    def vocabulary(self) -> list[str]:
        """Every distinct whole word of the store, lower case, sorted."""
        texts = self._texts.to_pylist()
        places = zip(self._sentence.tolist(), self._start.tolist(), self._end.tolist(), strict=True)
        words = {whole_word(texts[sentence], start, end).casefold() for sentence, start, end in places}
        return sorted(words - {""})


class CandidateWords:
    """Turns the ids of a LensResults folder into words. Raises InputError if the store it names is gone.

    With ``describe="phrase"`` rows of the store are sentences with the word marked; tokens stay tokens, for they have
    no sentence.
    """

    def __init__(self, results: LensResults, describe: Literal["word", "phrase"] = "word") -> None:
        self._tokens = results.token_words()
        self._of_rows = frozenset(results.store_lenses)
        store = results.store() if results.needs_store else None
        self._rows = StoreWords(store) if store is not None else None
        described = None if self._rows is None else self._rows.phrase if describe == "phrase" else self._rows.word
        self._word_of_row = None if described is None else lru_cache(maxsize=1 << 18)(described)

    def of(self, lens: str, ids: npt.NDArray[np.int32]) -> tuple[str, ...]:
        """The words of one patch: ``ids`` int32 ``[k]``, best first; empty words and the padding id -1 are left out."""
        if lens in self._of_rows:
            assert self._word_of_row is not None
            words = (self._word_of_row(row) for row in ids.tolist() if row >= 0)
        else:
            words = (token_word(self._tokens[token]) for token in ids.tolist() if token >= 0)
        return tuple(word for word in words if word)

    def vocabulary(self) -> list[str]:
        """What random words are drawn from: the store's whole words, or without a store all tokens."""
        if self._rows is not None:
            return self._rows.vocabulary()
        return sorted({token_word(token).casefold() for token in self._tokens} - {""})


def token_word(token: str) -> str:
    """A decoded token without the mark or the blanks around it."""
    return token.strip().lstrip(_SPACE_MARKERS).strip()


def random_words(vocabulary: Sequence[str], count: int, name: str) -> tuple[str, ...]:
    """``count`` distinct words (all, if there are fewer), drawn evenly from the vocabulary by the hash of ``name``."""
    count = min(count, len(vocabulary))
    stream = hashlib.shake_256(f"lenscore.judging/random-words/{name}".encode())
    length = 16 * count
    while True:
        numbers = np.frombuffer(stream.digest(length), dtype="<u8")
        chosen = list(dict.fromkeys((numbers % len(vocabulary)).tolist()))[:count]
        if len(chosen) == count:
            return tuple(vocabulary[i] for i in chosen)
        length *= 2
