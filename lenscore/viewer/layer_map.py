"""Which contextual layers the nearest neighbours of each visual layer come from, counted image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lenscore.readings.image_reading import ImageReading


class LayerMap:
    """Counts of the first neighbour of every patch, over the images that were added."""

    def __init__(self, layers: Sequence[int]) -> None:
        self._layers = tuple(layers)
        self._counts: dict[tuple[int, int], int] = {}

    def add(self, reading: ImageReading) -> None:
        """Count one image; lenses that search no store count for nothing."""
        for lens in reading.lenses:
            if lens.contextual_layers is None or not lens.which.shape[2]:
                continue
            for layer, nearest, which in zip(reading.layers, lens.contextual_layers, lens.which, strict=True):
                found, counts = np.unique(nearest[:, 0][which[:, 0] >= 0], return_counts=True)
                for other, count in zip(found.tolist(), counts.tolist(), strict=True):
                    self._counts[layer, other] = self._counts.get((layer, other), 0) + count

    def table(self) -> dict[str, Any] | None:
        """``contextual`` layers and ``rows`` of (visual layer, shares 0..1); None where nothing was counted."""
        contextual = sorted({other for _, other in self._counts})
        if not contextual:
            return None
        rows = []
        for layer in self._layers:
            counts = [self._counts.get((layer, other), 0) for other in contextual]
            if sum(counts):
                rows.append((layer, [count / sum(counts) for count in counts]))
        return {"contextual": contextual, "rows": rows}
