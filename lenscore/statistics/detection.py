"""How well scores find something: precision, recall, area under the ROC curve, calibration; intervals over images.

What is to be found is called positive, and high scores are to say so. Each measure takes the distinct scores, from the
highest on ``[scores]``, and how many positives and negatives have each ``[..., scores]``; it returns ``[...]``, NaN
where it is not defined.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from lenscore.statistics.intervals import CONFIDENCE

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]
Measure = Callable[[Floats, Floats, Floats], Floats]
RESAMPLES = 1000
TAILS = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))
"""Percentiles of bootstrap samples that are the ends of an interval."""
BINS = 10
THRESHOLD = 0.5
"""Of precision and recall."""
_TOGETHER = 50
"""Resamples that are in memory at a time."""


def area_under_roc(scores: Floats, positive: Floats, negative: Floats) -> Floats:
    """The chance that a positive has a higher score than a negative, ties counting half."""
    not_above = negative[..., ::-1].cumsum(axis=-1)[..., ::-1] - negative / 2
    return _ratio((positive * not_above).sum(axis=-1), positive.sum(axis=-1) * negative.sum(axis=-1))


def average_precision(scores: Floats, positive: Floats, negative: Floats) -> Floats:
    """The sum over the scores, from the highest on, of precision times gain of recall.

    As in scikit-learn. By chance it is about the share of positives.
    """
    found, said = positive.cumsum(axis=-1), (positive + negative).cumsum(axis=-1)
    return _ratio((np.nan_to_num(_ratio(found, said)) * positive).sum(axis=-1), positive.sum(axis=-1))


def precision(scores: Floats, positive: Floats, negative: Floats) -> Floats:
    """The share of positives among scores of at least `THRESHOLD`."""
    said = scores >= THRESHOLD
    return _ratio(positive[..., said].sum(axis=-1), (positive + negative)[..., said].sum(axis=-1))


def recall(scores: Floats, positive: Floats, negative: Floats) -> Floats:
    """The share of positives that have a score of at least `THRESHOLD`."""
    return _ratio(positive[..., scores >= THRESHOLD].sum(axis=-1), positive.sum(axis=-1))


def brier_score(scores: Floats, positive: Floats, negative: Floats) -> Floats:
    """The mean squared difference of a probability and what came: 0 is best (Brier, 1950)."""
    squares = positive * (1 - scores) ** 2 + negative * scores**2
    return _ratio(squares.sum(axis=-1), (positive + negative).sum(axis=-1))


def over_images(
    measures: Sequence[Measure], scores: Floats, labels: Labels, images: Sequence[str]
) -> list[tuple[float, float, float]]:
    """Each measure with its 95 % interval: value, low, high, from `RESAMPLES` bootstrap samples of the images.

    All scores of an image are drawn together, and the samples depend on the names of the images alone. Samples for
    which a measure is not defined are left out; without two images the interval is NaN.

    Args:
        measures: the measures.
        scores: ``[n]``.
        labels: ``[n]``, True for positives.
        images: the name of the image of each score.

    """
    names, which = np.unique(np.asarray(images), return_inverse=True)
    thresholds, *counts = by_score(scores, labels, np.ones((1, len(scores))))
    values = [float(measure(thresholds, *counts)[0]) for measure in measures]
    if len(names) < 2:
        return [(value, np.nan, np.nan) for value in values]
    drawn = drawn_images(names.tolist())
    resampled: list[list[Floats]] = [[] for _ in measures]
    for first in range(0, RESAMPLES, _TOGETHER):
        _, *counts = by_score(scores, labels, drawn[first : first + _TOGETHER, which])
        for kept, measure in zip(resampled, measures, strict=True):
            kept.append(measure(thresholds, *counts))
    found = []
    for value, parts in zip(values, resampled, strict=True):
        defined = np.concatenate(parts)
        defined = defined[~np.isnan(defined)]
        low, high = np.percentile(defined, TAILS).tolist() if len(defined) else (np.nan, np.nan)
        found.append((value, low, high))
    return found


def drawn_images(names: Sequence[str]) -> Floats:
    """How often each image is in each of `RESAMPLES` bootstrap samples, ``[RESAMPLES, images]``; by the names alone."""
    seed = int.from_bytes(hashlib.sha256("\n".join(names).encode()).digest()[:8], "little")
    rng = np.random.default_rng(seed)
    return rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES).astype(np.float64)


def precision_recall_curve(scores: Floats, labels: Labels) -> Floats:
    """A line for each distinct score, from the highest on: score, precision, recall ``[scores, 3]``."""
    thresholds, positive, negative = by_score(scores, labels, np.ones((1, len(scores))))
    found = positive[0].cumsum()
    return np.stack([thresholds, found / (positive + negative)[0].cumsum(), _ratio(found, found[-1])], axis=1)


def reliability(probabilities: Floats, labels: Labels) -> Floats:
    """Of `BINS` equal parts of 0..1 that have some: their number, mean and share of positives ``[bins, 3]``."""
    which = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
    parts = [which == number for number in np.unique(which)]
    return np.array([[part.sum(), probabilities[part].mean(), labels[part].mean()] for part in parts])


def by_score(scores: Floats, labels: Labels, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """The distinct scores, from the highest on, and the positives and negatives of each for weights ``[..., n]``."""
    order = np.argsort(-scores, kind="stable")
    first = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    weights, is_positive = weights[..., order], labels[order]
    positive, negative = (np.add.reduceat(weights * kind, first, axis=-1) for kind in (is_positive, ~is_positive))
    return scores[order][first], positive, negative


def _ratio(share: Floats, whole: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, share / whole, np.nan)
