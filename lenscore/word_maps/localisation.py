"""Does the map of a word show where its object is? The pointing game and average precision, beside chance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenscore.judging.patches import SMALLEST_SHARE
from lenscore.statistics.intervals import clustered_mean
from lenscore.word_maps.found_words import FoundWords
from lenscore.word_maps.word_truth import WordTruth

ALL_WORDS = "(all words)"
COLUMNS = (
    *("word", "lens", "layer", "images", "pointing", "pointing_low", "pointing_high", "pointing_chance"),
    *("precision", "precision_low", "precision_high", "precision_chance"),
)
MEASURES = {"pointing": "pointing game", "precision": "average precision"}
_ROUNDING = 1e-6
"""Boxes of patches are stored in float32."""
_KEY = ["word", "lens", "layer"]
_CHANCES = [f"{measure}_chance" for measure in MEASURES]


def pointing_game(scores: npt.NDArray[np.float32], on_object: npt.NDArray[np.bool_]) -> float:
    """Whether the patch with the highest score is on the object: 1 or 0; of equal patches, the share that is.

    Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016. By chance it is the share of patches on
    the object. `scores` and `on_object` are ``[patches]``.
    """
    return float(on_object[scores == scores.max()].mean())


def average_precision(scores: npt.NDArray[np.float32], on_object: npt.NDArray[np.bool_]) -> float:
    """The mean over the patches on the object of the precision at their score: of the patches that score as high.

    As in scikit-learn: the sum of precision times gain of recall over the distinct scores.
    """
    ordered = np.argsort(-scores, kind="stable")
    last_of_equal = np.flatnonzero(np.append(np.diff(scores[ordered]) != 0, True))
    hits = on_object[ordered].cumsum()[last_of_equal]
    return float((hits / (last_of_equal + 1) * np.diff(hits, prepend=0)).sum() / hits[-1])


def precision_by_chance(on_object: int, patches: int) -> float:
    """The expected average precision of a random order; it is above the share of patches on the object."""
    if patches == 1:
        return float(on_object)
    others = (on_object - 1) / (patches - 1)
    return others + (1 - others) * float((1 / np.arange(1, patches + 1)).sum()) / patches


class Localisation:
    """Collects one image after another; an image counts for the words whose object covers enough of some patch.

    Attributes:
        words: the words of the images that were added.
        without_patch: by word, the number of images that have its object, but no patch that it covers enough of.

    """

    def __init__(self, truth: WordTruth, cover: float = SMALLEST_SHARE) -> None:
        """`cover` is the share of a patch that one object has to cover for the patch to be on it."""
        self._truth, self._cover = truth, cover
        self.words: tuple[str, ...] = ()
        self._lines: list[tuple[object, ...]] = []
        self.without_patch: dict[str, int] = {}

    def add(self, image_id: int, found: FoundWords) -> None:
        """Count one image, of the ids of the truth."""
        self.words = found.words
        for place, word in enumerate(found.words):
            shares = self._truth.coverage(image_id, word, found.reading.boxes)
            shown = ~np.isnan(shares)
            on_object = shares[shown] >= self._cover - _ROUNDING
            if not on_object.any():
                if image_id in self._truth.images_with(word):
                    self.without_patch[word] = self.without_patch.get(word, 0) + 1
                continue
            chances = on_object.mean(), precision_by_chance(int(on_object.sum()), len(on_object))
            for lens in found.lenses:
                for layer, scores in zip(found.reading.layers, lens.scores[place][:, shown], strict=True):
                    if not np.isnan(scores).any():
                        values = pointing_game(scores, on_object), average_precision(scores, on_object)
                        self._lines.append((word, lens.lens, layer, image_id, *values, *chances))

    def table(self) -> pd.DataFrame:
        """Returns one line per word, lens and layer with the `COLUMNS`; of several words also their mean (`ALL_WORDS`).

        Values are shares 0..1, means over ``images``, with 95 % intervals over images (`clustered_mean`), which are NaN
        for a single image. The mean over words is that over all pairs of image and word.
        """
        lines = pd.DataFrame(self._lines, columns=[*_KEY, "image", *MEASURES, *_CHANCES])
        lines = lines.sort_values("word", key=lambda words: words.map(self.words.index), kind="stable")
        if lines["word"].nunique() > 1:
            lines = pd.concat([lines, lines.assign(word=ALL_WORDS)], ignore_index=True)
        rows = [dict(zip(_KEY, key, strict=True)) | _means(part) for key, part in lines.groupby(_KEY, sort=False)]
        return pd.DataFrame(rows, columns=list(COLUMNS))


def _means(lines: pd.DataFrame) -> dict[str, float]:
    """The means of the values of one word, lens and layer."""
    by_image = lines.groupby("image", sort=False)
    counts = np.array(by_image.size(), np.float64)
    found: dict[str, float] = {"images": len(counts)}
    for measure in MEASURES:
        value, low, high = clustered_mean(np.array(by_image[measure].sum(), np.float64), counts, bounds=(0, 1))
        interval = (float(low), float(high)) if len(counts) > 1 else (np.nan, np.nan)
        found |= dict(zip((measure, f"{measure}_low", f"{measure}_high"), (float(value), *interval), strict=True))
        found[f"{measure}_chance"] = float(lines[f"{measure}_chance"].mean())
    return found
