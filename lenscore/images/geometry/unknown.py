"""A fallback for unknown families: patches without places, because a count of tokens says nothing about a grid."""

from __future__ import annotations

from lenscore.images.geometry.grids import Grid, ProcessedImage

UNGRIDDED = "ungridded"
"""Name of the view of an unknown family: each patch's box is the whole image, its column is its index."""


def unknown_grids(image: ProcessedImage) -> list[Grid]:
    """One row of patches without places, whatever their number.

    A square number of tokens is no square grid: queries of a resampler and padded or rectangular grids have one too.
    """
    return [Grid(UNGRIDDED, [(0.0, 1.0)], [(0.0, 1.0)] * len(image.positions))]
