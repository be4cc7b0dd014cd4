"""InternVL, Aya Vision and Command A Vision: tiles of a resized image in row-major order, the squashed image last."""

from __future__ import annotations

import sys

from lenscore.images.geometry.grids import Grid, ProcessedImage, tile_grids


def internvl_grids(image: ProcessedImage) -> list[Grid]:
    """One view if the image has a single tile; otherwise the tiles, then a thumbnail of the whole image.

    The image is stretched to a whole number of tiles. The vision encoder's patches are joined by pixel shuffle.
    """
    (width, height), settings = image.size, image.settings
    side = tuple(image.inputs["pixel_values"].shape[-2:])
    joined = getattr(image.config, "downsample_factor", None) or round(1 / image.config.downsample_ratio)
    patch = image.config.vision_config.patch_size
    cell_height, cell_width = (size * joined for size in (patch if isinstance(patch, list | tuple) else [patch] * 2))
    cols, rows = 1, 1
    if len(image.positions) > side[0] // cell_height * (side[1] // cell_width):
        # Each processor has its own rule for the tiles.
        canvas = sys.modules[type(settings).__module__].get_optimal_tiled_canvas
        cols, rows = canvas((height, width), side, settings.min_patches, settings.max_patches)
    tiles = [(row, col) for row in range(rows) for col in range(cols)] if rows * cols > 1 else []
    return tile_grids(image, [*tiles, None], (rows, cols), side, (cell_height, cell_width))
