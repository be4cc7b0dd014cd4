"""The chart of rates has layers at their true distances, and labels that do not touch."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest

from lenscore.statistics.intervals import Rate
from lenscore.viewer.rate_chart import rate_chart


@pytest.mark.parametrize("layers", [(0, 1, 2, 4, 8, 16, 24, 30, 31), (5,), (3, 7)])
def test_layers_stand_at_true_distances(layers: tuple[int, ...]) -> None:
    summary = SimpleNamespace(
        layers=layers, lenses=("latent",), rate=lambda *_: Rate.of(3, 10), control=lambda *_, **__: Rate.of(1, 10)
    )
    chart = rate_chart(summary)
    (lens,) = chart["lenses"]
    xs = [point[0] for point in lens["points"]]
    assert len(xs) == len(layers)
    for (one, other), x in zip(pairwise(layers), xs[1:], strict=True):
        assert x - xs[0] == pytest.approx((other - layers[0]) / (layers[-1] - layers[0]) * (xs[-1] - xs[0]), abs=0.11)
        assert one < other
    labels = chart["layers"]
    assert labels[-1][0] == layers[-1]
    assert all(later[1] - earlier[1] >= 23.8 for earlier, later in pairwise(labels))
    assert {layer for layer, _ in labels} >= {layers[0], layers[-1]}
