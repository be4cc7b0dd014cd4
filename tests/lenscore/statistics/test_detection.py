"""Measures of detectors beside scikit-learn, and their intervals beside a plain bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from lenscore.statistics.detection import (
    area_under_roc,
    average_precision,
    brier_score,
    by_score,
    over_images,
    precision,
    precision_recall_curve,
    recall,
    reliability,
)

MEASURES = (area_under_roc, average_precision, precision, recall, brier_score)


def made(seed: int, ties: bool):
    rng = np.random.default_rng(seed)
    scores = rng.random(60)
    labels = rng.random(60) < 0.2 + 0.5 * scores
    return np.round(scores, 1) if ties else scores, labels, rng.integers(0, 4, 60).astype(float)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_measures_are_those_of_scikit_learn(seed, ties):
    scores, labels, weights = made(seed, ties)
    counts = by_score(scores, labels, weights)
    said = scores >= 0.5
    expected = (
        metrics.roc_auc_score(labels, scores, sample_weight=weights),
        metrics.average_precision_score(labels, scores, sample_weight=weights),
        metrics.precision_score(labels, said, sample_weight=weights),
        metrics.recall_score(labels, said, sample_weight=weights),
        metrics.brier_score_loss(labels, scores, sample_weight=weights),
    )
    assert [float(measure(*counts)) for measure in MEASURES] == pytest.approx(expected)
    curve = precision_recall_curve(scores, labels)
    shares, recalls, thresholds = metrics.precision_recall_curve(labels, scores)
    assert curve[::-1] == pytest.approx(np.stack([thresholds, shares[:-1], recalls[:-1]], axis=1))


def test_intervals_are_those_of_a_plain_bootstrap_over_images():
    scores, labels, _ = made(1, True)
    images = np.array([f"image {number // 3}" for number in range(60)])
    found = over_images(MEASURES, scores, labels, images.tolist())
    names, rng = np.unique(images), np.random.default_rng(5)
    drawn = []
    for _ in range(1000):
        places = np.concatenate([np.flatnonzero(images == name) for name in rng.choice(names, len(names))])
        drawn.append([measure(*by_score(scores[places], labels[places], np.ones(len(places)))) for measure in MEASURES])
    low, high = np.percentile(np.array(drawn), [2.5, 97.5], axis=0)
    assert np.array(found)[:, 1] == pytest.approx(low, abs=0.03)
    assert np.array(found)[:, 2] == pytest.approx(high, abs=0.03)
    # The order of the nouns does not matter, and one image has no interval.
    order = np.argsort(scores, kind="stable")
    again = over_images(MEASURES, scores[order], labels[order], images[order].tolist())
    assert np.array(again) == pytest.approx(np.array(found), abs=1e-12)
    assert np.isnan(over_images(MEASURES, scores, labels, ["one"] * 60)[0][1:]).all()


def test_what_is_not_defined_is_nan():
    one_kind = by_score(np.array([0.2, 0.4]), np.array([False, False]), np.ones(2))
    assert np.isnan([area_under_roc(*one_kind), average_precision(*one_kind), precision(*one_kind)]).all()
    bins = reliability(np.array([0.05, 0.07, 1.0]), np.array([True, False, True]))
    assert bins == pytest.approx(np.array([[2, 0.06, 0.5], [1, 1, 1]]))
