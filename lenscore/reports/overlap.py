"""Overlap of the words that two runs, or two lenses of one run, find on the same patches.

Words are compared case-insensitively as text, since corpora and language models number them differently.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import COLUMN_INCHES, PAGE_INCHES, draw_heat_map, label_text
from lenscore.reports.parts.run_words import ImageWords, RunWords
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.parts.word_vocabulary import Vocabulary
from lenscore.reports.sections import Plot, Section, Table
from lenscore.statistics.file_names import file_name
from lenscore.statistics.intervals import clustered_mean
from lenscore.statistics.sources import AnalyzeSource, Sources
from lenscore.statistics.summary import left_out_of_means

OVERLAP_COLUMNS = ["first", "second", "first_lens", "second_lens", "layer", "images", "patches", "shared"]
OVERLAP_COLUMNS += ["jaccard", "low", "high"]

_Codes = npt.NDArray[np.int32]
_Floats = npt.NDArray[np.float64]
_IMAGES_AT_ONCE = 64
_TALL_ROWS = 12
_MOST_ROWS = 36
"""Of a figure that fits a page."""
_MOST_NUMBERS = 20
"""Rows of a matrix that has room for a number in each cell."""
_CAPTION = "words of a patch that both find, by all words that either finds (Jaccard index), in percent"


class _Pair(NamedTuple):
    """Two lenses, each of the run at an index."""

    first: int
    second: int
    first_lens: str
    second_lens: str


def overlap_section(sources: Sources) -> Section | None:
    """The overlap of all pairs of lenses of a run, and of all pairs of runs; None without a pair."""
    frame, apart = count_overlap(sources.analyses)
    if frame.empty and not apart:
        return None
    within, between = frame[frame["first"] == frame["second"]], frame[frame["first"] != frame["second"]]
    tables, plots, single = [], [], []
    if len(between):
        tables.append(Table("overlap-runs", f"Pairs of runs: {_CAPTION}; 95 % intervals over images.", between))
        for lens, found in between.groupby("first_lens", sort=False):
            name = f"overlap-runs-{file_name(str(lens))}"
            caption = f"{title_of(str(lens))} in pairs of runs: {_CAPTION}"
            lines = found["first"] + "\n" + found["second"]
            if lines.nunique() <= _MOST_ROWS:
                plots.append(_plot(name, f"{caption}.", lines, found))
            else:
                note = left_out_of_means(source.results for source in sources.analyses)
                averaged = _averaged(found, sources.analyses)
                plots.append(_matrix(name, f"{caption}; the mean over layers. {note}".rstrip(), averaged))
    if len(within):
        tables.append(Table("overlap-lenses", f"Pairs of lenses: {_CAPTION}; 95 % intervals over images.", within))
        lines = within["first_lens"].map(title_of) + " –\n" + within["second_lens"].map(title_of)
        for label, found in within.groupby("first", sort=False):
            caption = f"{label}, pairs of lenses: {_CAPTION}."
            single.append(_plot(f"overlap-lenses-{file_name(str(label))}", caption, lines[found.index], found))
    text = ["Compared are the sets of the best words, not their order; equal words in other contexts count as one.\n"]
    text += [
        f"Not compared: {markdown_text(first)} with {markdown_text(second)}: {reason}.\n"
        for first, second, reason in apart
    ]
    details = tuple(single) if plots else ()
    return Section("Overlap of words", "\n".join(text), tuple(tables), (*plots, *single), details=details)


def count_overlap(analyses: Sequence[AnalyzeSource]) -> tuple[pd.DataFrame, list[tuple[str, str, str]]]:
    """Compare all pairs of lenses of a run, and all pairs of runs lens by lens, on the same patches of the same images.

    Returns a table with ``OVERLAP_COLUMNS``, and the pairs of runs that cannot be compared (label, label, reason).
    ``shared`` is the mean number of words in both lists, ``jaccard`` the mean share of shared words in all words, with
    95 % intervals over images. Patches with two empty lists do not count.
    """
    vocabulary = Vocabulary()
    runs = [RunWords(source.results, vocabulary) for source in analyses]
    every_image = list(dict.fromkeys(sha256 for run in runs for sha256 in run.images))
    sums: dict[_Pair, list[_Floats]] = defaultdict(list)
    for start in range(0, len(every_image), _IMAGES_AT_ONCE):
        read = [_Sets(list(run.read(every_image[start : start + _IMAGES_AT_ONCE]))) for run in runs]
        for place, sets in enumerate(read):
            for first, second in combinations(sets.by_lens, 2):
                found = sets.by_lens[first].compare(sets.by_lens[second])
                sums[_Pair(place, place, first, second)].append(found)
        for one, other in combinations(range(len(runs)), 2):
            both = [image for image in read[one].places if image in read[other].places]
            if common := _common_layers(runs[one], runs[other]) if both else []:
                mine, its = (
                    read[run].chosen(both, [runs[run].layers.index(layer) for layer in common]) for run in (one, other)
                )
                for lens in (lens for lens in mine if lens in its):
                    sums[_Pair(one, other, lens, lens)].append(mine[lens].compare(its[lens]))
    apart = [
        (analyses[one].label, analyses[other].label, _reason(runs[one], runs[other]))
        for one, other in combinations(range(len(runs)), 2)
        if not any((pair.first, pair.second) == (one, other) for pair in sums)
    ]
    lines = [
        line for pair in sorted(sums, key=lambda pair: pair[:2]) for line in _lines(pair, sums[pair], runs, analyses)
    ]
    return pd.DataFrame(lines, columns=OVERLAP_COLUMNS), apart


class _Sets:
    """The sets of words of one run on some images.

    ``places`` numbers the images, each named by its hash and its patches; ``by_lens`` has the sets of all of them.
    """

    def __init__(self, images: Sequence[ImageWords]) -> None:
        self.places = {(image.sha256, image.patches): place for place, image in enumerate(images)}
        lenses = images[0].codes if images else ()
        self.by_lens = {lens: _WordSets.of([image.codes[lens] for image in images]) for lens in lenses}

    def chosen(self, images: Sequence[tuple[str, bytes]], layers: Sequence[int]) -> dict[str, _WordSets]:
        """The sets of each lens on some of the images at some layers (places of them), in these orders."""
        places = [self.places[image] for image in images]
        return {lens: sets.chosen(places, layers) for lens, sets in self.by_lens.items()}


@dataclass(frozen=True)
class _WordSets:
    """The sets of words of one lens on some images, made once and compared with many others.

    Attributes:
        words: int32 ``[k, layers, patches]``, the distinct codes, or -1; the patches of all images in their order.
        sizes: unsigned ``[layers, patches]``, how many there are.
        starts: int64 ``[images]``, the first patch of each image.

    """

    words: _Codes
    sizes: npt.NDArray[np.unsignedinteger[Any]]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, images: Sequence[_Codes]) -> _WordSets:
        """``images``: ``[patches, layers, k]`` each, negative for no word."""
        words = np.maximum(np.concatenate(images).T, np.int32(-1), order="C")
        for place in range(1, len(words)):
            words[place, (words[:place] == words[place]).any(axis=0)] = -1
        sizes = (words >= 0).sum(axis=0, dtype=np.min_scalar_type(len(words)))
        return cls(words, sizes, _starts([len(image) for image in images]))

    def chosen(self, images: Sequence[int], layers: Sequence[int]) -> _WordSets:
        """Only some images and layers, in this order."""
        count, stops = len(self.starts), [*self.starts[1:], self.sizes.shape[1]]
        if list(images) == list(range(count)) and list(layers) == list(range(len(self.sizes))):
            return self
        spans = [np.arange(self.starts[image], stops[image]) for image in images]
        patches = np.concatenate(spans)
        words, sizes = self.words[:, layers][..., patches], self.sizes[layers][:, patches]
        return _WordSets(words, sizes, _starts([len(span) for span in spans]))

    def compare(self, other: _WordSets) -> _Floats:
        """Compare with another lens's sets on the same patches and layers; k may differ.

        Returns sums over the patches ``[3, images, layers]``: the Jaccard indices, the numbers of shared words, and of
        patches.
        """
        union = self.sizes.astype(np.uint16) + other.sizes
        shared = np.zeros(union.shape, np.result_type(self.sizes, other.sizes))
        equal = np.empty(union.shape, bool)
        for mine in self.words:
            for its in other.words:  # whole arrays of patches: the fast direction
                np.equal(mine, its, out=equal)
                np.add(shared, equal.view(np.uint8), out=shared)  # both of one byte, several times as fast
        # Each -1 was equal to each -1; the counts are modulo 256, and what remains is less.
        shared -= (len(self.words) - self.sizes) * (len(other.words) - other.sizes)
        union -= shared
        jaccard = np.split(shared / np.maximum(union, 1), self.starts[1:], axis=1)
        counts = [np.add.reduceat(each, self.starts, axis=1, dtype=np.float64).T for each in (shared, union > 0)]
        return np.stack([np.stack([image.sum(axis=1) for image in jaccard]), *counts])


def _starts(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    starts: npt.NDArray[np.int64] = np.cumsum([0, *lengths[:-1]])
    return starts


def _common_layers(one: RunWords, other: RunWords) -> list[int]:
    return [layer for layer in one.layers if layer in other.layers]


def _reason(one: RunWords, other: RunWords) -> str:
    if not set(one.images) & set(other.images):
        return "no image in common"
    if not _common_layers(one, other):
        return "no layer in common"
    if not set(one.lenses) & set(other.lenses):
        return "no lens in common"
    return "the images that both have are cut into other patches"


def _lines(
    pair: _Pair, sums: Sequence[_Floats], runs: Sequence[RunWords], analyses: Sequence[AnalyzeSource]
) -> list[list[object]]:
    jaccard, shared, patches = np.concatenate(sums, axis=1)
    mean, low, high = clustered_mean(jaccard, patches, (0, 1))
    both = clustered_mean(shared, patches)[0]
    head = [analyses[pair.first].label, analyses[pair.second].label, pair.first_lens, pair.second_lens]
    return [
        [*head, layer, int((patches[:, i] > 0).sum()), int(patches[:, i].sum()), both[i], mean[i], low[i], high[i]]
        for i, layer in enumerate(_common_layers(runs[pair.first], runs[pair.second]))
    ]


def _plot(name: str, caption: str, lines: pd.Series, data: pd.DataFrame) -> Plot:
    rows, layers = list(dict.fromkeys(lines)), data["layer"].nunique()
    narrow = layers <= 9 and max(len(part) for row in rows for part in row.split("\n")) <= 20
    size = (COLUMN_INCHES if narrow else PAGE_INCHES), 0.75 + (0.3 if len(rows) <= _TALL_ROWS else 0.21) * len(rows)
    return Plot(name, caption, size, partial(_draw, lines, data), data)


def _matrix(name: str, caption: str, data: pd.DataFrame) -> Plot:
    """Runs by runs, where a row for each pair would be longer than a page."""
    labels = list(dict.fromkeys([*data["first"], *data["second"]]))
    draw = partial(_draw_matrix, labels, data)
    return Plot(name, caption, (PAGE_INCHES, PAGE_INCHES), draw, data)


def _averaged(found: pd.DataFrame, analyses: Sequence[AnalyzeSource]) -> pd.DataFrame:
    """The lines of layers that enter means over layers, in both runs."""
    known = {source.label: source.results.mean_layers for source in analyses}
    pairs = zip(found["first"], found["second"], found["layer"], strict=True)
    return found[[layer in known[first] and layer in known[second] for first, second, layer in pairs]]


def _draw_matrix(labels: list[str], data: pd.DataFrame, figure: Figure) -> None:
    means = data.groupby(["second", "first"], sort=False)["jaccard"].mean().unstack()
    axes = figure.add_subplot()
    shares = means.reindex(index=labels[1:], columns=labels[:-1]).to_numpy(dtype=np.float64)
    drawn = draw_heat_map(axes, shares, numbers=len(labels) <= _MOST_NUMBERS, fontsize=5)
    axes.set_xticks(range(shares.shape[1]), [label_text(label, 24) for label in labels[:-1]], rotation=90)
    axes.set_yticks(range(shares.shape[0]), [label_text(label, 24) for label in labels[1:]])
    axes.tick_params(labelsize=6)
    if len(labels) > _MOST_NUMBERS:
        figure.colorbar(drawn, ax=axes, shrink=0.5, label="Jaccard index")


def _draw(lines: pd.Series, data: pd.DataFrame, figure: Figure) -> None:
    table = data.assign(line=lines).pivot_table(index="line", columns="layer", values="jaccard", sort=False)
    table = table.reindex(columns=sorted(table.columns))
    axes = figure.add_subplot()
    rows = ["\n".join(label_text(part, 34) for part in row.split("\n")) for row in table.index]
    draw_heat_map(axes, table.to_numpy(dtype=np.float64))
    axes.set_xticks(range(len(table.columns)), [str(layer) for layer in table.columns])
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("visual layer")
    axes.tick_params(axis="y", labelsize=6)
