"""Kimi K2.5: one view, in its own proportions, with padding on the right and at the bottom."""

from __future__ import annotations

import sys

from lenscore.images.geometry.grids import Axis, Grid, ProcessedImage


def kimi_grids(image: ProcessedImage) -> list[Grid]:
    """Cells of merge_size x merge_size patches; the image is never enlarged, and padded to whole cells.

    The processor returns the grid in patches, padding included: image_grid_thw = (frames, rows, columns).
    """
    (width, height), settings = image.size, image.settings
    resize = sys.modules[type(settings).__module__].navit_resize
    most = settings.size["max_height"]
    (made_height, made_width), _ = resize(
        height, width, settings.patch_size, settings.merge_size, settings.max_patches, most
    )
    _, rows, cols = image.inputs["image_grid_thw"][image.index].tolist()
    merge = settings.merge_size
    down, across = Axis(height, made_height / height), Axis(width, made_width / width)
    cell = merge * settings.patch_size
    return [Grid("global", down.cells(rows // merge, cell), across.cells(cols // merge, cell))]
