"""The words of an index: each row is a token in its sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from storage_layouts.embeddings import EmbeddingStore

FEW = 32
"""Rows up to which single cells are read sooner than Arrow's function for many is called."""


class RowWord(NamedTuple):
    """One row: its decoded token, its sentence, its position among the sentence's tokens, its token id.

    `start` and `end` are the token's character offsets in the sentence, -1 if unknown (cache folders).
    """

    token: str
    sentence: str
    position: int
    token_id: int
    start: int = -1
    end: int = -1


class RowWords:
    """The words of all rows of a layer.

    `rows` has the columns token_id, token, sentence_id, position, and perhaps char_start and char_end, line r for row
    r; `sentences` has sentence_id and text, each id once.
    """

    def __init__(self, rows: pa.Table, sentences: pa.Table) -> None:
        self.rows, self.sentences = rows.combine_chunks(), sentences.combine_chunks()

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of_store(cls, store: EmbeddingStore) -> RowWords:
        """Read the row table and the sentences of a store."""
        columns = ["token_id", "token", "sentence_id", "position", "char_start", "char_end"]
        return cls(store.row_table(columns), store.sentences())

    @classmethod
    def shared(cls, rows: pa.Table, sentences: pa.Table, known: Iterable[RowWords]) -> RowWords:
        """These words; if they equal known ones, the known ones. Layers usually have the same rows."""
        for words in dict.fromkeys(known):
            if words.rows.equals(rows) and words.sentences.equals(sentences):
                return words
        return cls(rows, sentences)

    def describe(self, rows: Sequence[int]) -> list[RowWord]:
        """The words of some rows, in their order."""
        ids, places = self._sentence_places
        sentence_ids, texts, token, *others = self._columns
        at = places[np.searchsorted(ids, _cells(sentence_ids, rows))].tolist()
        parts = (_cells(token, rows), _cells(texts, at), *(_cells(column, rows) for column in others))
        return list(map(RowWord, *parts))

    @cached_property
    def _columns(self) -> list[pa.ChunkedArray]:
        """The columns that `describe` reads. (To find one by its name takes as long as to read a row.)"""
        offsets = [name for name in ("char_start", "char_end") if name in self.rows.column_names]
        others = (self.rows[name] for name in ("token", "position", "token_id", *offsets))
        return [self.rows["sentence_id"], self.sentences["text"], *others]

    @cached_property
    def _sentence_places(self) -> tuple[np.ndarray, np.ndarray]:
        """The sentence ids, ascending, and their lines in `sentences`."""
        ids = self.sentences["sentence_id"].to_numpy()
        order = np.argsort(ids, kind="stable")
        return ids[order], order


def _cells(column: pa.ChunkedArray, places: Sequence[int]) -> list[Any]:
    """Some cells of a column, in this order."""
    if len(places) <= FEW:
        return [column[place].as_py() for place in places]
    return column.take(pa.array(places, pa.int64())).to_pylist()
