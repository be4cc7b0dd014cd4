"""The results of the lenses for some images as arrays, with their words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lenscore.readings.image_reading import ExplainedReading, LensReading, NextTokenReading
from lenscore.viewer.words_of_ids import WordsOfIds
from storage_layouts.results import LensResults
from storage_layouts.tables import matrix_of_lists
from storage_layouts.token_measures import PATCH_KEY


class LensLines:
    """The results of some images as arrays: of their patches, or of the tokens of their texts."""

    def __init__(self, results: LensResults, words: WordsOfIds, image_ids: Sequence[int], text: bool = False) -> None:
        self._results, self._words = results, words
        folder: Literal["distributions", "text_distributions"] = "text_distributions" if text else "distributions"
        self._numbers = {
            lens: _Numbers(results.distributions(lens, image_ids, folder)) for lens in results.distribution_lenses
        }
        explained = () if text else results.explained_lenses
        self._explained = {lens: _Numbers(results.explained(lens, image_ids)) for lens in explained}
        table = results.results(image_ids=image_ids, folder="text_results" if text else "results")
        self._lens = pc.index_in(table["lens"], pa.array(results.lenses)).to_numpy()
        self._image = table["image_id"].to_numpy()
        self._layer = np.searchsorted(results.layers, table["layer"].to_numpy())
        self._place = place_codes(*(table[name].to_numpy() for name in ("view", "row", "col")))
        self._columns = [matrix_of_lists(table[name]) for name in ("ids", "scores", "contextual_layers")]

    def readings(self, image_id: int, places: npt.NDArray[np.int32]) -> tuple[LensReading, ...]:
        """Returns what every lens of the run says at places [patches, 3] (view, row, column) of one image.

        Raises ValueError if a lens does not name every place once at each layer.
        """
        return tuple(self._reading(image_id, number, places) for number in range(len(self._results.lenses)))

    def _reading(self, image_id: int, number: int, places: npt.NDArray[np.int32]) -> LensReading:
        lens = self._results.lenses[number]
        ids, scores, contexts = self._tops(image_id, number, places)
        words, which = self._words.of(lens, ids)
        return LensReading(
            lens,
            words,
            which,
            np.where(ids < 0, np.float32("nan"), scores),  # -1: fewer than k candidates
            contexts if lens in self._results.store_lenses else None,
            NextTokenReading(*self._numbers[lens].of(image_id, places)) if lens in self._numbers else None,
            ExplainedReading(*self._explained[lens].of(image_id, places)) if lens in self._explained else None,
        )

    def _tops(self, image_id: int, lens: int, places: npt.NDArray[np.int32]) -> list[npt.NDArray[Any]]:
        """Ids, scores and contextual layers ``[layers, patches, k]`` of one image and lens."""
        chosen = np.flatnonzero((self._image == image_id) & (self._lens == lens))
        layers, patches = len(self._results.layers), len(places)
        at = self._layer[chosen] * patches + indices_of(self._place[chosen], place_codes(*places.T))
        if not np.array_equal(np.sort(at), np.arange(layers * patches)):
            name = self._results.lenses[lens]
            raise ValueError(f"{self._results.path}: image {image_id}: {name} does not have every patch once per layer")
        line_of = np.empty(len(at), np.int64)
        line_of[at] = chosen
        return [column[line_of].reshape(layers, patches, -1) for column in self._columns]


class _Numbers:
    """The rows of some images in a table of one lens, with lists of numbers over the layers, as arrays."""

    def __init__(self, table: pa.Table) -> None:
        self._image = table["image_id"].to_numpy()
        self._place = place_codes(*(table[name].to_numpy() for name in ("view", "row", "col")))
        lists = table.column_names[len(PATCH_KEY) + 1 :]  # behind the lens
        self._columns = [matrix_of_lists(table[name]) for name in lists]

    def of(self, image_id: int, places: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[np.float32]]:
        """Returns the numbers of one image, each ``[layers, patches]``, in the order of the table."""
        chosen = np.flatnonzero(self._image == image_id)
        line_of = np.empty(len(places), np.int64)
        line_of[indices_of(self._place[chosen], place_codes(*places.T))] = chosen
        return (np.ascontiguousarray(column[line_of].T) for column in self._columns)


def indices_of(wanted: npt.NDArray[Any], codes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Returns the index of each of ``wanted`` in ``codes``; an arbitrary index for a missing code."""
    order = np.argsort(codes)
    found = np.searchsorted(codes, wanted, sorter=order)
    return order[np.minimum(found, len(order) - 1)] if len(order) else found


def place_codes(view: npt.NDArray[Any], row: npt.NDArray[Any], col: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Returns one integer for each place; view, row and column are int16 on the disk."""
    codes: npt.NDArray[np.int64] = (view.astype(np.int64) << 32) + (row.astype(np.int64) << 16) + col
    return codes
