"""Ovis2: the squashed whole image, then tiles of a resized image in row-major order."""

from __future__ import annotations

from lenscore.images.geometry.grids import Grid, ProcessedImage, tile_grids


def ovis2_grids(image: ProcessedImage) -> list[Grid]:
    """A token before each view separates it from the one on its left, or ends a row of tiles.

    The image is stretched to a whole number of tiles; a single tile is the whole image. hidden_stride x hidden_stride
    patches of the vision encoder are joined.
    """
    tags = image.view_tags()
    rows = 1 + tags.count("<IMG_ROW>")
    cols = (len(tags) - 1) // rows
    height, width = image.inputs["pixel_values"].shape[-2:]
    cell = image.config.vision_config.patch_size * image.config.vision_config.hidden_stride
    tiles = [(row, col) for row in range(rows) for col in range(cols)]
    views = (tile_grids(image, order, (rows, cols), (height, width), (cell, cell)) for order in ([None], tiles))
    return [grid for view in views for grid in view]
