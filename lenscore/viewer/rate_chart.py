"""Rates by layer as the coordinates of a small SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lenscore.readings.axis_labels import labelled
from lenscore.readings.lens_titles import title_of
from lenscore.statistics.intervals import Rate
from lenscore.statistics.summary import RANDOM_WORDS, Summary

_WIDTH, _HEIGHT = 600, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 24, 12, 46
_LABEL_WIDTH = 24
_ASIDE = 4  # pixels between the points of two lenses, so that their intervals do not cover each other


def rate_chart(summary: Summary) -> dict[str, Any]:
    """Returns what templates/model.html draws; points are (x, y, lower bound, upper bound) in pixels."""
    chance = [summary.control(RANDOM_WORDS, layer=layer) for layer in summary.layers]
    by_lens = {lens: [summary.rate(lens, layer) for layer in summary.layers] for lens in summary.lenses}
    answered = [rate.high for rates in (*by_lens.values(), chance) for rate in rates if rate.n]
    top = next(bound for bound in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if bound >= min(1.0, max(answered, default=1.0)))
    first, last = summary.layers[0], summary.layers[-1]
    apart = _LABEL_WIDTH * max(1, last - first) / (_WIDTH - _LEFT - _RIGHT)

    def x(layer: int) -> float:
        part = (layer - first) / (last - first) if last > first else 0.5
        return round(_LEFT + part * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(share: float) -> float:
        return round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share / top), 1)

    def points(rates: Sequence[Rate], aside: float = 0) -> list[tuple[float, float, float, float]]:
        found = [(layer, rate) for layer, rate in zip(summary.layers, rates, strict=True) if rate.n]
        return [(round(x(layer) + aside, 1), y(rate.rate), y(rate.low), y(rate.high)) for layer, rate in found]

    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "right": _WIDTH - _RIGHT,
        "bottom": _HEIGHT - _BOTTOM,
        "lenses": [
            {"name": lens, "title": title_of(lens), "points": points(rates, _ASIDE * place)}
            for place, (lens, rates) in enumerate(by_lens.items())
        ],
        "chance": points(chance),
        "ticks": [(f"{100 * top * part / 4:g}", y(top * part / 4)) for part in range(5)],
        "layers": [(layer, x(layer)) for layer in labelled(summary.layers, apart)],
    }
