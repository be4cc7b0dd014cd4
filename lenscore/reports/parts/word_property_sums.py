"""Sums of word properties of an analyze run, by image, lens and layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenscore.reports.parts.word_vocabulary import CodedResults, Vocabulary
from lenscore.statistics.intervals import clustered_mean
from storage_layouts.results import LensResults

Properties = Callable[[Sequence[str]], npt.NDArray[np.float64]]
"""Maps words to numbers ``[words, properties]``."""


@dataclass(frozen=True)
class WordSums:
    """Sums over all candidates of all patches.

    ``sums`` is float64 ``[lenses, images, layers, properties]``; ``words``, the number of summed words without blank
    candidates, is ``[lenses, images, layers]``.
    """

    lenses: tuple[str, ...]
    layers: tuple[int, ...]
    sums: npt.NDArray[np.float64]
    words: npt.NDArray[np.float64]

    def means(
        self, names: Mapping[str, int], counts: int | None = None, bounds: tuple[float, float] | None = None
    ) -> pd.DataFrame:
        """The means of properties: lens, layer, name, words, counted, sum, mean, low, high.

        Args:
            names: the column in ``sums`` of each property.
            counts: a property (1 or 0) of the words to average over; None for all words.
            bounds: of the values, for the intervals of `clustered_mean`.

        """
        sums, words = np.moveaxis(self.sums, 1, 0), np.moveaxis(self.words, 1, 0)[..., None]
        values = sums[..., list(names.values())]
        counted = words if counts is None else sums[..., [counts]]
        estimate = dict(zip(("mean", "low", "high"), clustered_mean(values, counted, bounds), strict=True))
        totals = {
            name: np.broadcast_to(array.sum(axis=0), values.shape[1:]).astype(int)
            for name, array in (("words", words), ("counted", counted), ("sum", values))
        }
        index = pd.MultiIndex.from_product([self.lenses, self.layers, names], names=["lens", "layer", "name"])
        columns = {name: array.ravel() for name, array in (totals | estimate).items()}
        return pd.DataFrame(columns, index=index).reset_index()


class PropertyTable:
    """The properties of the words of a vocabulary that runs share.

    ``real`` are columns to be added up word by word. All other values are whole numbers, whose sums do not depend on
    the order, and few words differ in all of them: the words of a kind are counted.

    Attributes:
        values: float64 ``[words, properties]``.
        kind: int64 ``[words]``, which line of ``kinds`` has the whole numbers of a word.
        kinds: float64 ``[kinds, whole numbers]``.

    """

    def __init__(self, properties: Properties, count: int, real: Sequence[int]) -> None:
        self.vocabulary, self._properties = Vocabulary(), properties
        self.count, self.real, self.whole = count, real, np.setdiff1d(np.arange(count), real)
        self.values, self.kind = np.zeros((0, count)), np.zeros(0, np.int64)
        self.kinds = np.zeros((0, len(self.whole)))
        self._numbers: dict[bytes, int] = {}

    def look_up(self) -> None:
        """Add the words that are new in the vocabulary."""
        if len(self.vocabulary) == len(self.values):
            return
        new = self._properties(self.vocabulary.words(len(self.values)))
        numbers = [self._numbers.setdefault(line.tobytes(), len(self._numbers)) for line in new[:, self.whole]]
        self.values = np.concatenate([self.values, new])
        self.kind = np.append(self.kind, np.array(numbers, np.int64))
        self.kinds = np.frombuffer(b"".join(self._numbers), np.float64).reshape(-1, len(self.whole))


def add_up_words(results: LensResults, table: PropertyTable) -> WordSums:
    """Sum up the properties of all words of a run, shard by shard."""
    coded = CodedResults(results, table.vocabulary)
    layers = np.array(sorted(results.layers))
    plan = results.run.require_plan()
    shape = (len(results.lenses), plan.items, len(layers))
    sums, words = np.zeros((*shape, table.count)), np.zeros(shape)
    for shard in plan.shards():
        here, cell_count = slice(shard.first, shard.stop), shard.items * len(layers)
        for place, found in enumerate(coded.read(range(shard.first, shard.stop))):
            table.look_up()
            cell = (found.places[:, 0] - shard.first) * len(layers) + np.searchsorted(layers, found.places[:, 4])
            is_word = found.codes >= 0
            cells, codes = np.repeat(cell, is_word.sum(axis=1)), found.codes[is_word]
            kinds = len(table.kinds)
            counts = np.bincount(cells * kinds + table.kind[codes], minlength=cell_count * kinds)
            counts = counts.reshape(shard.items, len(layers), kinds)
            words[place, here] = counts.sum(axis=-1)
            sums[place, here, :, table.whole] = np.moveaxis(counts @ table.kinds, -1, 0)
            for column in table.real:
                added = np.bincount(cells, table.values[codes, column], minlength=cell_count)
                sums[place, here, :, column] = added.reshape(shard.items, len(layers))
    return WordSums(results.lenses, tuple(layers.tolist()), sums, words)
