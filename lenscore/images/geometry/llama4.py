"""Llama 4: tiles of a padded image in row-major order, the squashed whole image last."""

from __future__ import annotations

from lenscore.images.geometry.grids import Axis, Grid, ProcessedImage, even


def llama4_grids(image: ProcessedImage) -> list[Grid]:
    """A token before each view separates it from the one on its left, or ends a row of tiles.

    The image keeps its proportions on a canvas of tiles, with padding on the right and at the bottom; it is enlarged to
    one tile at most. A single tile has no whole image. The vision encoder's patches are joined by pixel shuffle.
    """
    tags = image.view_tags()
    rows = 1 + tags.count(image.vlm.processor.tile_global_token)
    cols = max(len(tags) - 1, 1) // rows
    side = image.settings.size["height"]
    vision = image.config.vision_config
    cell = round(vision.patch_size / vision.pixel_shuffle_ratio)
    (width, height), (across, down) = image.size, _scales(image, cols * side, rows * side)
    tiles = [
        (
            Axis(height, down, -float(row * side)).cells(side // cell, cell),
            Axis(width, across, -float(col * side)).cells(side // cell, cell),
        )
        for row in range(rows)
        for col in range(cols)
    ]
    if len(tiles) == 1:
        return [Grid("global", *tiles[0])]
    whole = Grid("global", even(side // cell), even(side // cell))
    return [*(Grid(f"tile {number}", *spans) for number, spans in enumerate(tiles, start=1)), whole]


def _scales(image: ProcessedImage, full_width: int, full_height: int) -> tuple[float, float]:
    """Processed pixels per original pixel, across and down, on a canvas of this size; rounded as in transformers."""
    width, height = image.size
    if not image.settings.resize_to_max_canvas:
        one = image.settings.size["height"]
        full_width, full_height = min(max(width, one), full_width), min(max(height, one), full_height)
    across, down = full_width / width, full_height / height
    if across < down:
        made_width, made_height = full_width, min(int(height * across), full_height)
    else:
        made_width, made_height = min(int(width * down), full_width), full_height
    return max(made_width, 1) / width, max(made_height, 1) / height
