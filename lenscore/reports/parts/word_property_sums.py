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


def add_up_words(results: LensResults, properties: Properties, count: int, real: Sequence[int]) -> WordSums:
    """Sum up ``count`` properties of all words of a run, shard by shard.

    The columns ``real`` are added up word by word. All other values are whole numbers, whose sums do not depend on the
    order, and few words differ in all of them: the words of a kind are counted.
    """
    vocabulary = Vocabulary()
    coded = CodedResults(results, vocabulary)
    layers = np.array(sorted(results.layers))
    plan = results.run.require_plan()
    shape = (len(results.lenses), plan.items, len(layers))
    sums, words = np.zeros((*shape, count)), np.zeros(shape)
    values = np.zeros((0, count))
    kinds: dict[bytes, int] = {}
    kind_of = np.zeros(0, np.int64)
    whole = np.setdiff1d(np.arange(count), real)
    for shard in plan.shards():
        for place, found in enumerate(coded.read(range(shard.first, shard.stop))):
            new = properties(vocabulary.words(len(values)))
            values = np.concatenate([values, new])
            numbers = [kinds.setdefault(line.tobytes(), len(kinds)) for line in new[:, whole]]
            kind_of = np.append(kind_of, np.array(numbers, np.int64))
            of_kind = np.frombuffer(b"".join(kinds), np.float64).reshape(-1, len(whole))
            cell = (found.places[:, 0] - shard.first) * len(layers) + np.searchsorted(layers, found.places[:, 4])
            is_word = found.codes >= 0
            cells, codes = np.repeat(cell, is_word.sum(axis=1)), found.codes[is_word]
            here = slice(shard.first, shard.stop)
            counts = np.bincount(cells * len(kinds) + kind_of[codes], minlength=shard.items * len(layers) * len(kinds))
            counts = counts.reshape(shard.items, len(layers), len(kinds))
            words[place, here] += counts.sum(axis=-1)
            sums[place, here, :, whole] += np.moveaxis(counts @ of_kind, -1, 0)
            for column in real:
                added = np.bincount(cells, values[codes, column], minlength=shard.items * len(layers))
                sums[place, here, :, column] += added.reshape(shard.items, len(layers))
    return WordSums(results.lenses, tuple(layers.tolist()), sums, words)
