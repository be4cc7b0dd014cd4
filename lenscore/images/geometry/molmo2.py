"""Molmo2: the squashed image at low resolution, then a larger rendering that is cut into overlapping crops."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from lenscore.images.geometry.grids import Grid, ProcessedImage, Span


def molmo2_grids(image: ProcessedImage) -> list[Grid]:
    """The processor returns both grids (image_grids), and the patches that each token pools (image_token_pooling).

    The larger rendering is one grid, because each of its patches is taken from one crop. Incomplete pools are padded
    with -1 on both sides.
    """
    grids = image.inputs["image_grids"].tolist()
    low_rows, low_cols, high_rows, high_cols = grids[image.index]
    first = sum(low[0] * low[1] + low[2] * low[3] for low in grids[: image.index])
    pooled = image.inputs["image_token_pooling"] >= 0
    low = pooled[first : first + low_rows * low_cols]
    high = pooled[first + low_rows * low_cols : first + low_rows * low_cols + high_rows * high_cols]
    pool = image.settings.pooling_size
    return [
        Grid("global", *_spans(low.reshape(low_rows, low_cols, *pool))),
        Grid("tiles", *_spans(high.reshape(high_rows, high_cols, *pool))),
    ]


def _spans(pooled: Tensor) -> tuple[list[Span], list[Span]]:
    """Rows and columns, from the mask [rows, cols, pool height, pool width] of patches that exist."""
    spans = []
    for per_cell in (pooled.any(3).any(1), pooled.any(2).any(0)):
        counts = per_cell.sum(1).tolist()
        edges = [sum(counts[:k]) / sum(counts) for k in range(len(counts) + 1)]
        spans.append(list(pairwise(edges)))
    return spans[0], spans[1]
