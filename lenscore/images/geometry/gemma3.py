"""Gemma3: the squashed image, then the crops of pan-and-scan, if enabled, each pooled to a small square grid."""

from __future__ import annotations

from math import ceil, isqrt

from lenscore.images.geometry.grids import Axis, Grid, ProcessedImage, Span, even


def gemma3_grids(image: ProcessedImage) -> list[Grid]:
    """Crops cut the longer side into pieces of equal length (the last may be shorter), and are then squashed too.

    Their number follows from the number of tokens, because the processor does not return it.
    """
    side = isqrt(image.config.mm_tokens_per_image)
    crops = len(image.positions) // side**2 - 1
    width, height = image.size
    grids = [Grid("global", even(side), even(side))]
    for crop in range(crops):
        if width >= height:
            grids.append(Grid(f"crop {crop + 1}", even(side), _piece(width, crop, crops, side)))
        else:
            grids.append(Grid(f"crop {crop + 1}", _piece(height, crop, crops, side), even(side)))
    return grids


def _piece(length: int, crop: int, crops: int, side: int) -> list[Span]:
    step = ceil(length / crops)
    begin, end = crop * step, min((crop + 1) * step, length)
    scale = side / (end - begin)
    return Axis(length, scale, -begin * scale).cells(side, 1)
