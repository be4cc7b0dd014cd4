"""The candidates of an analyze run as codes of words, fast enough for millions of candidates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from lenscore.index.result_ids import IdNumbers
from lenscore.judging.candidates import CandidateWords
from lenscore.readings.words import folded
from storage_layouts.results import LensResults
from storage_layouts.tables import matrix_of_lists

NO_WORD = -1
"""The code of a candidate that is blank or missing."""

_PLACE = ("image_id", "view", "row", "col", "layer")


class Vocabulary:
    """Words (`lenscore.readings.words.folded`) numbered in order of appearance; runs can share a vocabulary."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._known: list[tuple[object, IdNumbers]] = []

    def __len__(self) -> int:
        return len(self._codes)

    def code(self, word: str) -> int:
        """The code of a word; a new word gets the next code."""
        return self._codes.setdefault(folded(word), len(self._codes))

    def known(self, source: object) -> IdNumbers:
        """The codes of the ids of a `ResultIds.source`: runs that share one look each word up once."""
        found = next((known for one, known in self._known if one == source), None)
        if found is None:
            found = IdNumbers()
            self._known.append((source, found))
        return found

    def words(self, start: int = 0) -> list[str]:
        """The words from a code on, in the order of codes."""
        return list(self._codes)[start:]


@dataclass(frozen=True)
class CodedCandidates:
    """The words of one lens for some images.

    ``places`` int64 ``[n, 5]`` has image id, view, row, column and layer; ``codes`` int32 ``[n, k]`` has the words,
    best first, or `NO_WORD`.
    """

    lens: str
    places: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int32]


class CodedResults:
    """The results of an analyze run, coded by a vocabulary. Each distinct candidate is looked up once."""

    def __init__(self, results: LensResults, vocabulary: Vocabulary) -> None:
        self._results, self._vocabulary = results, vocabulary
        self._ids = CandidateWords(results).ids
        self._known = {lens: vocabulary.known(self._ids.source(lens)) for lens in results.lenses}

    def read(self, image_ids: Iterable[int]) -> Iterator[CodedCandidates]:
        """The words of each lens for some images, in the order of the run."""
        table = self._results.results(image_ids=image_ids, columns=[*_PLACE, "lens", "ids"])
        for lens in self._results.lenses:
            lines = table.filter(pc.equal(table["lens"], lens))
            places = [lines[name].to_numpy().astype(np.int64) for name in _PLACE]
            yield CodedCandidates(lens, np.stack(places, axis=1), self._coded(lens, matrix_of_lists(lines["ids"])))

    def _coded(self, lens: str, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        def code(new: list[int]) -> list[int]:
            words = self._ids.look_up(lens, new)
            return [self._vocabulary.code(word) if word else NO_WORD for word in words]

        return self._known[lens].of(ids, code)
