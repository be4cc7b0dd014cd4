from __future__ import annotations

from math import isnan, sqrt

import numpy as np
import pytest
from scipy.stats import binomtest, norm, sem, t

from lenscore.statistics.intervals import Mean, Rate, clustered_mean, difference


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
    for yes in range(8):
        expected = binomtest(yes, 7).proportion_ci(method="wilson")
        assert (Rate.of(yes, 7).low, Rate.of(yes, 7).high) == pytest.approx(tuple(expected), abs=1e-12)


def test_nothing_answered_is_no_rate() -> None:
    rate = Rate.of(0, 0)
    assert isnan(rate.rate)
    assert (rate.percent, rate.interval) == ("–", "")
    with pytest.raises(ValueError, match="3 of 2"):
        Rate.of(3, 2)
    assert Mean.of(np.full((2, 3), np.nan), ["a", "b"]).as_share().shown == "–"
    assert difference(np.full((2, 3), np.nan), ["a", "b"], np.ones((1, 3)), ["c"]).shown_difference == "–"


def test_one_answer_an_image_is_wilson_and_several_layers_are_the_patches_means() -> None:
    rng = np.random.default_rng(0)
    yes = (rng.random((40, 1)) < 0.3).astype(float)
    names = [str(i) for i in range(40)]
    share, expected = Mean.of(yes, names).as_share(), Rate.of(int(yes.sum()), 40)
    assert (share.value, share.low, share.high) == (expected.rate, expected.low, expected.high)
    layers = (rng.random((40, 9)) < rng.random((40, 1))).astype(float)
    mean = Mean.of(layers, names)
    assert mean.value == pytest.approx(layers.mean())
    assert sqrt(mean.variance) == pytest.approx(sem(layers.mean(axis=1)))  # the means of patches are independent
    half = (mean.as_share().high - mean.as_share().low) / 2
    assert half == pytest.approx(t.ppf(0.975, 39) * sem(layers.mean(axis=1)), rel=0.06)
    # The same patches twice as two images' worth of patches say nothing new.
    doubled = Mean.of(np.vstack([layers, layers]), names * 2)
    assert doubled.variance == pytest.approx(mean.variance)
    assert doubled.patches == 80


def test_where_all_say_the_same_each_image_counts_once() -> None:
    share = Mean.of(np.zeros((30, 9)), [str(i // 10) for i in range(30)]).as_share()
    reach = t.ppf(0.975, 2) ** 2
    assert (share.value, share.low) == (0, 0)
    assert share.high == pytest.approx(reach / (3 + reach))
    alone = Mean.of(np.ones((5, 2)), ["a"] * 5).as_share()
    assert (alone.low, alone.high) == pytest.approx((1 - 3.841459 / 4.841459, 1), abs=1e-6)


def test_missing_answers_and_columns_leave_the_means_of_the_others() -> None:
    values = np.array([[1, 0, np.nan], [np.nan, 1, np.nan], [0, 1, np.nan], [np.nan, np.nan, np.nan]])
    mean = Mean.of(values, ["a", "b", "c", "d"])
    assert mean.value == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert (mean.patches, mean.images, mean.answers) == (3, 3, 5)
    # u = mean over columns of (y - column mean) / column n
    pulls = [(0.5 / 2 + (-2 / 3) / 3) / 2, (1 / 3) / 3 / 2, (-0.5 / 2 + (1 / 3) / 3) / 2]
    assert list(mean.pulls.values()) == pytest.approx(pulls)


def test_difference_is_bonett_and_price_for_single_answers_about_the_same_images() -> None:
    one, two = np.array([[1.0, 0.0]] * 12 + [[0.0, 1.0]] * 3 + [[1.0, 1.0]] * 10 + [[0.0, 0.0]] * 15).T[:, :, None]
    names = [str(i) for i in range(40)]
    found = difference(one, names, two, names)
    p12, p21 = 13 / 42, 4 / 42
    reach = norm.ppf(0.975) * sqrt((p12 + p21 - (p12 - p21) ** 2) / 42)
    assert (found.value, found.patches, found.images) == (pytest.approx(9 / 40), 40, 40)
    assert found.low == pytest.approx(p12 - p21 - reach, abs=0.01)  # with t, and n - 1
    assert found.high == pytest.approx(p12 - p21 + reach, abs=0.01)


def test_difference_is_agresti_and_caffo_for_single_answers_about_other_images() -> None:
    one, two = np.repeat([1.0, 0.0], [30, 30])[:, None], np.repeat([1.0, 0.0], [10, 70])[:, None]
    names, others = [str(i) for i in range(60)], [f"other {i}" for i in range(80)]
    p1, p2 = 31 / 62, 11 / 82
    reach = norm.ppf(0.975) * sqrt(p1 * (1 - p1) / 62 + p2 * (1 - p2) / 82)
    found = difference(one, names, two, others)
    assert (found.value, found.patches, found.images) == (0.375, 60, 140)
    assert (found.low, found.high) == pytest.approx((p1 - p2 - reach, p1 - p2 + reach), abs=0.01)
    paired = difference(one, names, two[:60], names)
    apart = difference(one, names, two[:60], others[:60])
    assert apart.high - apart.low > 1.2 * (paired.high - paired.low)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("one", [(0, 0, 0), (1, 1, 1), (0, 0, 1), (1, 0, 1), (1,)])
@pytest.mark.parametrize("two", [(0, 0, 0), (1, 1, 1), (1, 1, 0), (0,)])
def test_a_difference_is_never_a_point_nor_beyond_what_there_is(
    shared: bool, one: tuple[int, ...], two: tuple[int, ...]
) -> None:
    values = [np.repeat(np.array(side, float)[:, None], 4, axis=1) for side in (one, two)]
    names = [[f"{i}" if shared else f"{i} of {side}" for i in range(len(of))] for side, of in enumerate((one, two))]
    found = difference(values[0], names[0], values[1], names[1])
    assert -1 <= found.low < found.high <= 1
    assert found.low <= found.value <= found.high
    assert found.low < 0 or sum(one) > 0
    turned = difference(values[1], names[1], values[0], names[0])
    assert (-turned.high, -turned.low) == pytest.approx((found.low, found.high))


def test_the_mean_of_clusters_is_students_interval_where_all_images_are_alike() -> None:
    values = np.random.default_rng(2).integers(1, 9, (12, 25))
    mean, low, high = clustered_mean(values.sum(axis=1), np.full(12, 25))
    expected = t.interval(0.95, 11, values.mean(), sem(values.mean(axis=1)))
    assert (mean, low, high) == pytest.approx((values.mean(), *expected))
    assert all(map(isnan, clustered_mean(np.array([7]), np.array([2]))[1:]))


def test_bounds_are_never_left_and_a_mean_within_others_is_a_share_of_the_way() -> None:
    rng = np.random.default_rng(5)
    counts = rng.integers(0, 9, (7, 200))
    sums = rng.binomial(counts, rng.choice([0.0, 0.02, 0.5, 0.98, 1.0], 200))
    mean, low, high = clustered_mean(sums, counts, (0, 1))
    assert ((low >= 0) & (low <= mean) & (mean <= high) & (high <= 1)).all()
    assert (low < high).all()
    scaled = clustered_mean(3 * counts + 4 * sums, counts, (3, 7))
    assert np.allclose(scaled, [3 + 4 * mean, 3 + 4 * low, 3 + 4 * high])
    assert clustered_mean(3 * counts, counts, (3, 3))[1].tolist() == [3] * 200
    alone = clustered_mean(np.array([7]), np.array([9]), (0, 1))
    assert alone[1:] == pytest.approx(tuple(binomtest(7, 9).proportion_ci(method="wilson")), abs=0.4)
    assert np.isnan(clustered_mean(np.zeros(3), np.zeros(3), (0, 1))).all()


@pytest.mark.parametrize(
    ("share", "images", "patches", "likeness"),
    [
        *((0.02, 30, 10, 0.2), (0.02, 30, 25, 0.1), (0.02, 30, 25, 0.05), (0.02, 30, 5, 0.3)),
        *((0.05, 12, 10, 0.2), (0.05, 12, 25, 0.1), (0.05, 12, 5, 0.3), (0.05, 60, 10, 0.2)),
        *((0.02, 300, 25, 0.1), (0.3, 12, 10, 0.2), (0.5, 12, 10, 0.2), (0.98, 30, 10, 0.2)),
    ],
)
def test_bounded_intervals_cover_low_rates_of_images_that_differ(
    share: float, images: int, patches: int, likeness: float
) -> None:
    """Beta-binomial answers: each image has its own rate; ``likeness`` is the correlation within an image."""
    rng = np.random.default_rng(6)
    spread = 1 / likeness - 1
    of_image = rng.beta(share * spread, (1 - share) * spread, (images, 8000))
    sums, counts = rng.binomial(patches, of_image), np.full((images, 8000), patches)
    _, low, high = clustered_mean(sums, counts, (0, 1))
    covered = ((low <= share) & (share <= high)).mean()
    _, low, high = clustered_mean(sums, counts)
    without = ((low <= share) & (share <= high)).mean()
    print(f"{share:.0%} of {images} images x {patches}, correlation {likeness}: {covered:.1%}, unbounded {without:.1%}")
    assert 0.93 <= covered <= 0.99
    if images * min(share, 1 - share) < 1:
        assert without < 0.9


@pytest.mark.parametrize(("images", "patches", "layers", "base"), [(60, 1, 9, 0.5), (15, 6, 1, 0.4), (12, 8, 9, 0.3)])
def test_intervals_hold_what_they_promise(images: int, patches: int, layers: int, base: float) -> None:
    """Answers that depend on image and patch: the interval covers in 95 % of the worlds, a naive one does not."""
    rng = np.random.default_rng(3)
    names = np.repeat([str(i) for i in range(images)], patches)
    worlds = 600
    covered = naive = led = apart = 0
    others, elsewhere = [f"other {name}" for name in names], None
    for _ in range(worlds):
        of_image, of_patch = rng.normal(0, sqrt(0.3), (images, 1, 1)), rng.normal(0, sqrt(0.4), (images, patches, 1))
        noise = rng.normal(0, sqrt(0.3), (2, images, patches, layers))
        said = [
            (of_image + of_patch + part < norm.ppf(p)).astype(float).reshape(-1, layers)
            for part, p in zip(noise, (base, base - 0.1), strict=True)
        ]
        share = Mean.of(said[0], names).as_share()
        covered += share.low <= base <= share.high
        rate = Rate.of(int(said[0].sum()), said[0].size)
        naive += rate.low <= base <= rate.high
        lead = difference(said[0], names, said[1], names)
        led += lead.low <= 0.1 <= lead.high
        if elsewhere is not None:
            lead = difference(said[0], names, elsewhere, others)
            apart += lead.low <= 0.1 <= lead.high
        elsewhere = said[1]  # for the next world, whose images are others
    assert 0.92 <= covered / worlds <= 0.985
    assert naive / worlds < 0.9
    assert led / worlds >= 0.93
    assert 0.93 <= apart / (worlds - 1) <= 0.98
