"""How far a measured rate can be trusted: 95 % intervals that know which answers are about the same image.

Answers about one image resemble each other, at all layers and also on several of its patches. So what counts is how
much each image pulls at a mean, not how many answers there are (linearisation over clusters, as in surveys).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt
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
    # Exactly 0 and 1 there, whatever rounding does to the formula.
    return np.where(share <= 0, 0.0, centre - half)[()], np.where(share >= 1, 1.0, centre + half)[()]


def clustered_wilson(share: Floats, pulls: Floats, images: Floats, answers: Floats) -> tuple[Floats, Floats]:
    """Wilson's interval of shares for as many independent answers as their variance over images amounts to.

    How far that variance can be trusted is seen from the fourth moment of the pulls: where few images hold all that
    was found, it has few degrees of freedom, and Student's quantile is taken for these (Satterthwaite, Biometrics
    Bulletin 2, 1946). Where each image has one answer, the interval is Wilson's own. Where all images say the same,
    or there is but one, the variance cannot be told, and each image counts as one answer.

    Args:
        share: ``[...]``, within 0..1; NaN gives NaN.
        pulls: ``[images, ...]``, how far each image draws the share away from what the others say.
        images: ``[...]``, how many have an answer.
        answers: ``[...]``, in all.

    """
    squares, fourths = (pulls**2).sum(axis=0), (pulls**4).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = squares * images / (images - 1)
        told = (images > 1) & (variance > 1e-12)
        freedom = np.clip(2 * images / (images * fourths / squares**2 - 1), 1, images - 1)
        effective = np.where(told, np.minimum(share * (1 - share) / variance, answers), images)
        students = stdtrit(np.where(told, freedom, np.maximum(images - 1, 1)), _TAIL)
        single = (answers == images) | (images <= 1)
        n = np.where(answers == images, answers, effective)
        return wilson(share, n, np.where(single, _NORMAL, students))


@dataclass(frozen=True)
class Mean:
    """The mean over columns (layers, lenses) of their means over patches, and what each image has to do with it.

    Attributes:
        value: NaN where nothing was answered.
        pulls: by image, how far it draws the mean away from what the others say; they sum to 0.
        patches: how many were answered in any column.
        answers: in all columns.

    """

    value: float
    pulls: dict[str, float]
    patches: int
    answers: int

    @classmethod
    def of(cls, values: npt.NDArray[np.float64], images: Sequence[str]) -> Mean:
        """Of values ``[patches, columns]``, NaN where there is none, and the image of each patch.

        A column without any value is left out.
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
        """The average of means over the same or other images, each counting alike; those of nothing are left out."""
        means = [mean for mean in means if mean.patches]
        if not means:
            return cls(nan, {}, 0, 0)
        pulls: dict[str, float] = {}
        for mean in means:
            for image, pull in mean.pulls.items():
                pulls[image] = pulls.get(image, 0) + pull / len(means)
        value = sum(mean.value for mean in means) / len(means)
        return cls(value, pulls, sum(mean.patches for mean in means), sum(mean.answers for mean in means))

    @property
    def images(self) -> int:
        """How many images it is about."""
        return len(self.pulls)

    @property
    def variance(self) -> float:
        """Of the mean, images being drawn anew; NaN for a single image."""
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
    """How much higher one mean of shares 0..1 is than another, with an interval after Bonett and Price.

    (J. Educ. Behav. Stat. 37, 2012.) Two patches of two more images, of which each side has a yes on one, are added to
    both before the interval of Student's t is taken, so that it is no point where nothing varies. Images that both are
    about are paired; for images that only one is about, this is the interval of Agresti and Caffo (Am. Stat. 54, 2000),
    a little wider. What lies beyond -1..1 is cut off, as in both papers: no difference is there.

    Args:
        one: ``[patches, columns]``, NaN where there is none.
        images: the image of each of its patches.
        other: the same of the other mean; its patches and columns may be others.
        other_images: the image of each of these.

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
    """Mean of what was summed up by image, with its 95 % interval over whole images: three arrays ``[...]``.

    Words of one image are anything but independent. Without bounds the interval is that of a ratio estimator, with
    Student's t (Cochran, Sampling Techniques, 1977, sections 2.11 and 6.3); it is NaN where a single image was counted.
    A mean within bounds is a share of the way between them, and its interval, which never leaves them, that of
    `clustered_wilson`.

    Args:
        sums: ``[images, ...]``.
        counts: ``[images, ...]``, how many values were summed up; the mean is NaN where there is none at all.
        bounds: the smallest and the largest value that there can be, for example (0, 1) of a share.

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
