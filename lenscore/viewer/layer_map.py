"""Which contextual layers the nearest neighbours of each visual layer come from, counted image by image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lenscore.readings.image_reading import ImageReading


class LayerMap:
    """Counts the first neighbour of every patch of the images that were added, by visual and contextual layer."""

    def __init__(self, layers: Sequence[int]) -> None:
        self._counts: dict[int, Counter[int]] = {layer: Counter() for layer in layers}

    def add(self, reading: ImageReading) -> None:
        """Count one image; lenses that search no store are left out."""
        for lens in reading.lenses:
            if lens.contextual_layers is None or not lens.which.shape[2]:
                continue
            for layer, nearest, which in zip(reading.layers, lens.contextual_layers, lens.which, strict=True):
                self._counts[layer].update(nearest[:, 0][which[:, 0] >= 0].tolist())

    def table(self) -> dict[str, Any] | None:
        """Returns ``contextual`` layers and ``rows`` of (visual layer, shares 0..1); None if nothing was counted."""
        contextual = sorted(set().union(*self._counts.values()))
        rows = [
            (layer, [counts[other] / counts.total() for other in contextual])
            for layer, counts in self._counts.items()
            if counts
        ]
        return {"contextual": contextual, "rows": rows} if rows else None
