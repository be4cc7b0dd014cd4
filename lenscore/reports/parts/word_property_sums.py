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


def add_up_words(results: LensResults, properties: Properties, count: int) -> WordSums:
    """Sum up ``count`` properties of all words of a run, shard by shard."""
    vocabulary = Vocabulary()
    coded = CodedResults(results, vocabulary)
    layers = np.array(sorted(results.layers))
    plan = results.run.require_plan()
    shape = (len(results.lenses), plan.items, len(layers))
    sums, words = np.zeros((*shape, count)), np.zeros(shape)
    values = np.zeros((0, count))
    for shard in plan.shards():
        for place, found in enumerate(coded.read(range(shard.first, shard.stop))):
            values = np.concatenate([values, properties(vocabulary.words(len(values)))])
            cell = found.places[:, 0] * len(layers) + np.searchsorted(layers, found.places[:, 4])
            is_word = found.codes >= 0
            cells = np.repeat(cell, is_word.sum(axis=1))
            codes = found.codes[is_word]
            words[place] += np.bincount(cells, minlength=words[place].size).reshape(shape[1:])
            for column in range(count):
                added = np.bincount(cells, values[codes, column], minlength=words[place].size)
                sums[place, ..., column] += added.reshape(shape[1:])
    return WordSums(results.lenses, tuple(layers.tolist()), sums, words)
