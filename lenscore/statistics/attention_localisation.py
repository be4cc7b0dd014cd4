"""Does attention from the answer look at objects? Its share on their patches beside chance, and the area under ROC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from lenscore.readings.words import folded
from lenscore.statistics.intervals import clustered_mean

_KEYS = ["kind", "tokens", "layer"]
COLUMNS = [
    *_KEYS,
    "images",
    "maps",
    "share",
    "patches",
    "ratio",
    "ratio_low",
    "ratio_high",
    "auc",
    "auc_low",
    "auc_high",
]


class ObjectPatches(NamedTuple):
    """The words of an object, and which visual tokens [n] of its image are on it."""

    words: frozenset[str]
    on: npt.NDArray[np.bool_]


def localise(
    attention: pd.DataFrame,
    objects: Mapping[int, Sequence[ObjectPatches]],
    shown: Mapping[int, npt.NDArray[np.bool_]],
) -> pd.DataFrame:
    """Means over images, objects and tokens of the answer, by kind of map and layer; columns `COLUMNS`.

    Args:
        attention: lines as in `storage_layouts.interventions.ATTENTION`.
        objects: of each image.
        shown: which visual tokens [n] of an image show a part of it; the others are not counted.

    Returns:
        ``share`` of the attention to visual tokens that goes to the patches of an object, ``patches`` their share of
        all patches, ``ratio`` of both (1 by chance), and ``auc``: how often a patch of the object has more attention
        than another one (0.5 by chance). ``tokens`` is "all", or "naming": those that are a word of the object.
        Intervals are of 95 %, over images.

    """
    lines = pd.DataFrame(_lines(attention, objects, shown), columns=[*_KEYS, "image_id", "share", "patches", "auc"])
    found = [[*key, *_means(part)] for key, part in lines.groupby(_KEYS, sort=False)]
    return pd.DataFrame(found, columns=COLUMNS)


def area_under_curve(ranks: npt.NDArray[np.floating], on: npt.NDArray[np.bool_]) -> float:
    """How often a weight on an object is above another one, from all ranks [n] (`rankdata`); equal ones count half."""
    inside, outside = int(on.sum()), int((~on).sum())
    return float((ranks[on].sum() - inside * (inside + 1) / 2) / (inside * outside))


def _lines(
    attention: pd.DataFrame,
    objects: Mapping[int, Sequence[ObjectPatches]],
    shown: Mapping[int, npt.NDArray[np.bool_]],
) -> Iterator[tuple[object, ...]]:
    for line in attention.to_dict("records"):
        image_id = line["image_id"]
        weights = np.asarray(line["weights"], np.float64)[shown[image_id]]
        ranks = rankdata(weights)
        for one in objects.get(image_id, ()):
            on = one.on[shown[image_id]]
            if on.all() or not on.any() or not weights.sum():
                continue
            numbers = image_id, weights[on].sum() / weights.sum(), on.mean(), area_under_curve(ranks, on)
            yield line["kind"], "all", line["layer"], *numbers
            if folded(line["text"]) in one.words:
                yield line["kind"], "naming", line["layer"], *numbers


def _means(lines: pd.DataFrame) -> list[float]:
    by_image = lines.groupby("image_id")
    sums = {name: by_image[name].sum().to_numpy(np.float64)[:, None] for name in ("share", "patches", "auc")}
    counts = np.asarray(by_image.size(), np.float64)[:, None]
    ratio = (float(bound[0]) for bound in clustered_mean(sums["share"], sums["patches"]))
    area = (float(bound[0]) for bound in clustered_mean(sums["auc"], counts, (0, 1)))
    return [len(counts), len(lines), lines["share"].mean(), lines["patches"].mean(), *ratio, *area]
