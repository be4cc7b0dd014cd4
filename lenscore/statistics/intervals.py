"""95 % intervals of rates for answers that are clustered by image.

Answers about one image are correlated, at all layers and on several patches. The variance of a mean is therefore that
of the images' contributions to it (linearisation over clusters, as in surveys).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import atanh, nan, sqrt, tanh
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95
_TAIL = (1 + CONFIDENCE) / 2
_NORMAL = float(ndtri(_TAIL))
Floats = npt.NDArray[np.float64]
Numbers = Floats | npt.NDArray[np.int64]


class Rate(NamedTuple):
    """``yes`` of ``n`` answers with a 95 % interval (Wilson, JASA 22, 1927), as shares 0..1; NaN without answers."""

    n: int
    yes: int
    rate: float
    low: float
    high: float

    @classmethod
    def of(cls, yes: int, n: int) -> Rate:
        """The rate of ``yes`` in ``n`` independent answers. Raises ValueError unless 0 <= yes <= n."""
        if not 0 <= yes <= n:
            raise ValueError(f"{yes} of {n}: expected no more yes than answers")
        if n == 0:
            return cls(0, 0, nan, nan, nan)
        low, high = wilson(np.array(yes / n), np.array(float(n)), _NORMAL)
        return cls(n, yes, yes / n, float(low), float(high))

    @property
    def percent(self) -> str:
        """For people: ``62 %``, or ``–`` without answers."""
        return f"{100 * self.rate:.0f} %" if self.n else "–"

    @property
    def interval(self) -> str:
        """For people: ``55–68``, in percent, or nothing."""
        return f"{100 * self.low:.0f}–{100 * self.high:.0f}" if self.n else ""


class Estimate(NamedTuple):
    """A share, or a difference of shares, with its 95 % interval; NaN without answers.

    ``patches`` and ``images`` are the numbers of answered patches and of their images.
    """

    value: float
    low: float
    high: float
    patches: int
    images: int

    @property
    def shown(self) -> str:
        """For people, in percent: ``62 % (55–68)``, or ``–``."""
        return share_text(*self[:3])

    @property
    def shown_difference(self) -> str:
        """For people, in percentage points: ``+12 (-3 to +27)``, or ``–``."""
        return difference_text(*self[:3]) if self.patches else "–"


def share_text(share: float, low: float, high: float) -> str:
    """A share with its interval, in percent: ``62 % (55–68)``; ``62 %`` without an interval, ``–`` for NaN."""
    text = f"{100 * share:.0f} %" if share == share else "–"
    return f"{text} ({100 * low:.0f}–{100 * high:.0f})" if low == low else text


def difference_text(difference: float, low: float, high: float) -> str:
    """A difference of shares with its interval, in percentage points: ``+12 (-3 to +27)``."""
    return f"{points(difference)} ({points(low)} to {points(high)})"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign: ``+12``, ``-3``, ``0``."""
    rounded = round(100 * difference)
    return f"{rounded:+d}" if rounded else "0"


def wilson(share: Floats, n: Floats, quantile: Floats | float) -> tuple[Floats, Floats]:
    """Wilson's interval of shares of ``n`` independent answers each; ``n`` need not be whole."""
    centre = (share + quantile**2 / (2 * n)) / (1 + quantile**2 / n)
    half = quantile * np.sqrt(share * (1 - share) / n + quantile**2 / (4 * n**2)) / (1 + quantile**2 / n)
    # Exactly 0 and 1, without rounding errors.
    return np.where(share <= 0, 0.0, centre - half)[()], np.where(share >= 1, 1.0, centre + half)[()]


def clustered_wilson(share: Floats, pulls: Floats, images: Floats, answers: Floats) -> tuple[Floats, Floats]:
    """Wilson's interval of shares for the effective number of independent answers, from the variance over images.

    The degrees of freedom of that variance come from the fourth moment of the pulls (Satterthwaite, Biometrics
    Bulletin 2, 1946) and choose the quantile of Student's t: they are few where few images have all the yes. With one
    answer per image, the interval is Wilson's. With equal answers of all images, or a single image, the variance is
    unknown, and each image counts as one answer.

    Args:
        share: ``[...]``, within 0..1; NaN gives NaN.
        pulls: ``[images, ...]``, the contribution of each image to the deviation of the share.
        images: ``[...]``, the number of images with an answer.
        answers: ``[...]``, the number of answers.

    """
    squares, fourths = (pulls**2).sum(axis=0), (pulls**4).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = squares * images / (images - 1)
        known = (images > 1) & (variance > 1e-12)
        freedom = np.clip(2 * images / (images * fourths / squares**2 - 1), 1, images - 1)
        effective = np.where(known, np.minimum(share * (1 - share) / variance, answers), images)
        students = stdtrit(np.where(known, freedom, np.maximum(images - 1, 1)), _TAIL)
        single = (answers == images) | (images <= 1)
        n = np.where(answers == images, answers, effective)
        return wilson(share, n, np.where(single, _NORMAL, students))


@dataclass(frozen=True)
class Mean:
    """The mean over columns (layers, lenses) of their means over patches, with the contribution of each image.

    Attributes:
        value: the mean; NaN without answers.
        pulls: the contribution of each image to the deviation of the mean; they sum to 0.
        patches: the number of patches with an answer in any column.
        answers: the number of answers in all columns.

    """

    value: float
    pulls: dict[str, float]
    patches: int
    answers: int

    @classmethod
    def of(cls, values: npt.NDArray[np.float64], images: Sequence[str]) -> Mean:
        """The mean of values ``[patches, columns]`` (NaN without an answer), with the image of each patch.

        Columns without a value are left out.
        """
        values = values[:, ~np.isnan(values).all(axis=0)]
        answered = ~np.isnan(values)
        kept = answered.any(axis=1)
        if not kept.any():
            return cls(nan, {}, 0, 0)
        counts, means = answered.sum(axis=0), np.nanmean(values, axis=0)
        pulls = (np.where(answered, values - means, 0) / counts).mean(axis=1)[kept]
        names, which = np.unique(np.asarray(images)[kept], return_inverse=True)
        by_image = np.bincount(which, pulls, len(names))
        pulled = dict(zip(names.tolist(), by_image.tolist(), strict=True))
        return cls(float(means.mean()), pulled, int(kept.sum()), int(counts.sum()))

    @classmethod
    def average(cls, means: Sequence[Mean]) -> Mean:
        """The average of means with equal weights, of the same or other images; means without answers are left out."""
        means = [mean for mean in means if mean.patches]
        if not means:
            return cls(nan, {}, 0, 0)
        pulls: dict[str, float] = defaultdict(float)
        for image, pull in (item for mean in means for item in mean.pulls.items()):
            pulls[image] += pull / len(means)
        value = sum(mean.value for mean in means) / len(means)
        return cls(value, pulls, sum(mean.patches for mean in means), sum(mean.answers for mean in means))

    @property
    def images(self) -> int:
        """The number of images with an answer."""
        return len(self.pulls)

    @property
    def variance(self) -> float:
        """The sampling variance of the mean over images; NaN for a single image."""
        n = self.images
        return n / (n - 1) * sum(pull**2 for pull in self.pulls.values()) if n > 1 else nan

    def as_share(self) -> Estimate:
        """The mean of shares 0..1 with the interval of `clustered_wilson`."""
        if not self.patches:
            return Estimate(nan, nan, nan, 0, 0)
        pulls = np.array(list(self.pulls.values()))
        counts = np.array(float(self.images)), np.array(float(self.answers))
        low, high = clustered_wilson(np.array(self.value), pulls, *counts)
        return Estimate(self.value, float(low), float(high), self.patches, self.images)


def difference(one: Floats, images: Sequence[str], other: Floats, other_images: Sequence[str]) -> Estimate:
    """Difference of two means of shares 0..1, with the interval of Bonett and Price (J. Educ. Behav. Stat. 37, 2012).

    Two patches of two further images, with one yes on each side, are added to both before the interval of Student's t
    is computed, so that it has a width even without variance. Common images are paired; for other images this is the
    interval of Agresti and Caffo (Am. Stat. 54, 2000), a little wider. The interval is clipped to -1..1, as in both
    papers.

    Args:
        one: ``[patches, columns]``, NaN without an answer.
        images: the image of each patch.
        other: the values of the other mean; its patches and columns may differ.
        other_images: the image of each of these patches.

    """
    means = [Mean.of(one, images), Mean.of(other, other_images)]
    if not all(mean.patches for mean in means):
        return Estimate(nan, nan, nan, 0, 0)
    more, less = _with_a_patch_each_way(one, images, 1.0), _with_a_patch_each_way(other, other_images, 0.0)
    pulls = {image: more.pulls.get(image, 0) - less.pulls.get(image, 0) for image in more.pulls | less.pulls}
    drawn = Mean(more.value - less.value, pulls, 0, 0)
    reach = float(stdtrit(drawn.images - 1, _TAIL)) * sqrt(drawn.variance)
    return Estimate(
        means[0].value - means[1].value,
        max(-1.0, drawn.value - reach),
        min(1.0, drawn.value + reach),
        min(mean.patches for mean in means),
        len(means[0].pulls | means[1].pulls),
    )


def _with_a_patch_each_way(values: Floats, images: Sequence[str], first: float) -> Mean:
    sides = np.where(np.isnan(values).all(axis=0), nan, [[first], [1 - first]])
    return Mean.of(np.vstack([values, sides]), [*images, "one for it", "one against it"])


def clustered_mean(
    sums: Numbers, counts: Numbers, bounds: tuple[float, float] | None = None
) -> tuple[Floats, Floats, Floats]:
    """The mean of values that were summed by image, and its 95 % interval over images: three arrays ``[...]``.

    Without bounds the interval is that of a ratio estimator with Student's t (Cochran, Sampling Techniques, 1977,
    sections 2.11 and 6.3); it is NaN for a single image. With bounds it is the interval of `clustered_wilson` for the
    relative position of the mean between them, and never exceeds them.

    Args:
        sums: ``[images, ...]``.
        counts: ``[images, ...]``, the number of summed values; the mean is NaN without values.
        bounds: the smallest and the largest possible value, for example (0, 1) for shares.

    """
    images, total = (counts > 0).sum(axis=0).astype(float), counts.sum(axis=0).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums.sum(axis=0) / total
        pulls = np.where(counts > 0, sums - mean * counts, 0.0) / total
        if bounds is None:
            error = np.sqrt((pulls**2).sum(axis=0) * images / (images - 1))
            reach = np.where(images > 1, stdtrit(np.maximum(images - 1, 1), _TAIL) * error, np.nan)
            return mean, mean - reach, mean + reach
        lowest, span = bounds[0], bounds[1] - bounds[0]
        if span == 0:
            return mean, mean, mean
        low, high = clustered_wilson((mean - lowest) / span, pulls / span, images, total)
        return mean, lowest + span * low, lowest + span * high


def clustered_correlation(one: Floats, other: Floats, images: Sequence[object]) -> tuple[float, float, float]:
    """Pearson's correlation of two values ``[n]``, and its 95 % interval over images: three numbers.

    The variance is that of the images' contributions (linearisation) to Fisher's transform of the correlation, with
    Student's t. The correlation is NaN without variance of a value; the interval for a single image too.
    """
    deviations = [values - values.mean() if len(values) else values for values in (one, other)]
    lengths = [float(np.sqrt((deviation**2).sum())) for deviation in deviations]
    if not all(lengths):
        return nan, nan, nan
    x, y = (deviation / length for deviation, length in zip(deviations, lengths, strict=True))
    correlation = float(np.clip((x * y).sum(), -1, 1))
    names, which = np.unique(np.asarray(images), return_inverse=True)
    count = len(names)
    if count < 2 or abs(correlation) == 1:
        return correlation, nan, nan
    pulls = np.bincount(which, x * y - correlation * (x**2 + y**2) / 2) / (1 - correlation**2)
    reach = float(stdtrit(count - 1, _TAIL)) * sqrt(count / (count - 1) * float((pulls**2).sum()))
    middle = atanh(correlation)
    return correlation, tanh(middle - reach), tanh(middle + reach)
