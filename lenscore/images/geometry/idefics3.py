"""Idefics3, SmolVLM and LFM2-VL: tiles of a resized image in row-major order, the whole image last."""

from __future__ import annotations

import re

from lenscore.images.geometry.grids import Grid, ProcessedImage, even, tile_grids
from storage_layouts.errors import InputError

_TILE = re.compile(r"<(?:\|img_)?row_(\d+)_col_(\d+)\|?>")


def idefics3_grids(image: ProcessedImage) -> list[Grid]:
    """Idefics3 and SmolVLM squash the whole image into one more tile.

    The vision encoder's patches are joined by pixel shuffle, `scale_factor` x `scale_factor` to a token.
    """
    tiles, shape = _tiles(image)
    side = image.inputs["pixel_values"].shape[-1]
    cell = image.config.vision_config.patch_size * image.config.scale_factor
    return tile_grids(image, [*tiles, None], shape, (side, side), (cell, cell))


def lfm2_vl_grids(image: ProcessedImage) -> list[Grid]:
    """LFM2-VL resizes the whole image to a number of patches of its own; without tiles it is the only view.

    The processor returns the (rows, columns) of patches of each view of a batch in spatial_shapes.
    """
    tiles, shape = _tiles(image)
    first = sum(len(image.view_tags(row)) for row in range(image.index))
    joined = image.config.downsample_factor
    sizes = [(rows // joined, cols // joined) for rows, cols in image.inputs["spatial_shapes"][first:].tolist()]
    cell = image.config.vision_config.patch_size * joined
    grids = tile_grids(image, tiles, shape, (sizes[0][0] * cell, sizes[0][1] * cell), (cell, cell))
    if len(image.view_tags()) > len(tiles):
        rows, cols = sizes[len(tiles)]
        grids.append(Grid("global", even(rows), even(cols)))
    return grids


def _tiles(image: ProcessedImage) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """(row, column) of each tile, and the number of rows and columns; none if the whole image is the only view.

    A token before each view names its row and column among the tiles, or the whole image. Raises InputError for tiles
    in another order.
    """
    tags = image.view_tags()
    matches = [_TILE.fullmatch(tag) for tag in tags]
    tiles = [(int(match[1]) - 1, int(match[2]) - 1) for match in matches if match]
    rows, cols = (max((tile[axis] for tile in tiles), default=0) + 1 for axis in (0, 1))
    whole = len(tags) - len(tiles)
    ordered = tiles in ([], [(row, col) for row in range(rows) for col in range(cols)])
    if not ordered or whole > 1 or (whole and matches[-1]):
        raise InputError(
            f"--model {image.vlm.name}: found the tokens {' '.join(tags)} before its views; expected "
            "<row_1_col_1> and so on for the tiles, and another token for the whole image at the end"
        )
    return tiles, (rows, cols)
