from __future__ import annotations

from math import isnan, sqrt

import pytest

from lenscore.reports.intervals import Rate


def test_wilson_interval_by_hand() -> None:
    # 3 of 10: centre (p + z^2/2n) / (1 + z^2/n), half width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n)
    z, n, p = 1.959964, 10, 0.3
    centre, half = (p + z * z / 20) / (1 + z * z / n), z * sqrt(p * (1 - p) / n + z * z / 400) / (1 + z * z / n)
    rate = Rate.of(3, 10)
    assert (rate.low, rate.high) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert (rate.low, rate.high) == pytest.approx((0.1078, 0.6032), abs=1e-4)
    assert (rate.percent, rate.interval) == ("30 %", "11–60")
    assert Rate.of(0, 200).low == 0
    assert Rate.of(0, 200).high == pytest.approx(0.01885, abs=1e-5)
    assert Rate.of(200, 200).high == 1


def test_nothing_answered_is_no_rate() -> None:
    rate = Rate.of(0, 0)
    assert isnan(rate.rate)
    assert (rate.percent, rate.interval) == ("–", "")
    with pytest.raises(ValueError, match="k"):
        Rate.of(3, 2)
