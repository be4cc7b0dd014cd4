"""What the words of an analyze run have in common, added up by image, lens and layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenscore.reports.parts.word_vocabulary import CodedResults, Vocabulary
from lenscore.statistics.intervals import clustered_mean
from storage_layouts.results import LensResults

Properties = Callable[[Sequence[str]], npt.NDArray[np.float64]]
"""From words to numbers ``[words, properties]``."""


@dataclass(frozen=True)
class WordSums:
    """Sums over all candidates of all patches.

    ``sums`` float64 ``[lenses, images, layers, properties]``, ``words`` ``[lenses, images, layers]`` how many words
    (blank candidates do not count) were added up.
    """

    lenses: tuple[str, ...]
    layers: tuple[int, ...]
    sums: npt.NDArray[np.float64]
    words: npt.NDArray[np.float64]

    def means(self, sums: int, counts: int | None = None, bounds: tuple[float, float] | None = None) -> pd.DataFrame:
        """The mean of a property by lens and layer: lens, layer, words, counted, mean, low, high.

        Over all words, or over the words that another property counts (1 or 0 each). Intervals are those of
        `clustered_mean`, within ``bounds``.
        """
        lines = []
        for place, lens in enumerate(self.lenses):
            counted = self.words[place] if counts is None else self.sums[place, ..., counts]
            mean, low, high = clustered_mean(self.sums[place, ..., sums], counted, bounds)
            for column, layer in enumerate(self.layers):
                totals = [int(self.words[place, :, column].sum()), int(counted[:, column].sum())]
                lines.append([lens, layer, *totals, mean[column], low[column], high[column]])
        return pd.DataFrame(lines, columns=["lens", "layer", "words", "counted", "mean", "low", "high"])


def add_up_words(results: LensResults, properties: Properties, count: int) -> WordSums:
    """Add up so many properties of all words of a run, a shard at a time."""
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
