"""What the ids of results stand for: rows of the store that a lens searched, or tokens of the vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from lenscore.index.row_words import RowWord, RowWords
from storage_layouts.results import LensResults

T = TypeVar("T")
_NOT_MET = -2


class ResultIds(Generic[T]):
    """The ids of a LensResults folder, as what `of_row` makes of a row, and `of_token` of the text of a token.

    Raises InputError if the store of the results is gone.

    Attributes:
        tokens: the text of each token id.
        rows: the rows of the store; None if no lens searched one.

    """

    def __init__(self, results: LensResults, of_row: Callable[[RowWord], T], of_token: Callable[[str], T]) -> None:
        self._of_row, self._of_token = of_row, of_token
        self._store_lenses = frozenset(results.store_lenses)
        store = results.store() if results.needs_store else None
        self._run_id = store and store.run.run_id
        self.tokens = results.token_words()
        self.rows = RowWords.of_store(store) if store is not None else None

    def are_rows(self, lens: str) -> bool:
        """Whether the ids of a lens are rows of the store."""
        return lens in self._store_lenses

    def source(self, lens: str) -> object:
        """A value that is equal for lenses, also of other runs, whose ids stand for the same."""
        return self._run_id if self.are_rows(lens) and self._run_id else self.tokens

    def look_up(self, lens: str, ids: Sequence[int]) -> list[T]:
        """What each id stands for. One call with many ids is faster than many calls."""
        if not self.are_rows(lens):
            return [self._of_token(self.tokens[token]) for token in ids]
        if not ids:
            return []
        assert self.rows is not None
        return list(map(self._of_row, self.rows.describe(ids)))


class IdNumbers:
    """An integer >= -1 of each id, made when the id is met first; that of the id -1, which is no candidate, is -1."""

    def __init__(self) -> None:
        self._numbers = np.empty(0, np.int32)

    def of(self, ids: npt.NDArray[np.int32], number: Callable[[list[int]], Sequence[int]]) -> npt.NDArray[np.int32]:
        """The numbers of ids of any shape; `number` makes those of new ids, which are distinct and ascending."""
        missing = max(0, int(ids.max(initial=-1)) + 1 - len(self._numbers))
        numbers = np.append(self._numbers, np.full(missing, _NOT_MET, np.int32))
        met = np.zeros(len(numbers), bool)
        met[ids[ids >= 0]] = True
        new = np.flatnonzero(met & (numbers == _NOT_MET))
        numbers[new] = number(new.tolist())
        self._numbers = numbers
        return np.append(numbers, np.int32(-1))[np.maximum(ids, -1)]
