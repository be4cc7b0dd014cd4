"""How far a measured rate can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import binomtest

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Rate:
    """``yes`` of ``n`` answers, with the 95 % interval of Wilson (JASA 22, 1927), all as shares 0..1.

    ``rate``, ``low`` and ``high`` are NaN where nothing was answered. The interval takes the answers as
    independent; several patches of one image are a little less than that.
    """

    yes: int
    n: int
    rate: float
    low: float
    high: float

    @classmethod
    def of(cls, yes: int, n: int) -> Rate:
        """The rate of ``yes`` in ``n``. Raises ValueError unless 0 <= yes <= n."""
        if n == 0 and yes == 0:
            return cls(0, 0, float("nan"), float("nan"), float("nan"))
        interval = binomtest(yes, n).proportion_ci(CONFIDENCE, method="wilson")
        return cls(yes, n, yes / n, float(interval.low), float(interval.high))

    @property
    def percent(self) -> str:
        """For people: ``62 %``, or ``–`` where nothing was answered."""
        return f"{100 * self.rate:.0f} %" if self.n else "–"

    @property
    def interval(self) -> str:
        """For people: ``55–68``, in percent, or nothing."""
        return f"{100 * self.low:.0f}–{100 * self.high:.0f}" if self.n else ""
