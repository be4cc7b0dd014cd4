"""A fallback for unknown families: a guess, which the name of the view shows."""

from __future__ import annotations

from math import isqrt

from lenscore.images.geometry.grids import Grid, ProcessedImage, even

ASSUMED_SQUARE = "assumed square"
"""Name of the view of an unknown family whose number of visual tokens is a square number."""

UNGRIDDED = "ungridded"
"""Name of the view of any other unknown family: each patch's box is the whole image, its column is its index."""


def unknown_grids(image: ProcessedImage) -> list[Grid]:
    """A square grid over the whole image if the number of tokens is a square number, else patches without places."""
    tokens = len(image.positions)
    side = isqrt(tokens)
    if side**2 == tokens and tokens:
        return [Grid(ASSUMED_SQUARE, even(side), even(side))]
    return [Grid(UNGRIDDED, [(0.0, 1.0)], [(0.0, 1.0)] * tokens)]
