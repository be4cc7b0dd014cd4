"""Idefics3 and SmolVLM: tiles of a resized image in row-major order, the squashed whole image last."""

from __future__ import annotations

import re

from lenscore.images.geometry.grids import Axis, Grid, ProcessedImage
from storage_layouts.errors import InputError

_TILE = re.compile(r"<row_(\d+)_col_(\d+)>")


def idefics3_grids(image: ProcessedImage) -> list[Grid]:
    """Each rendering follows a token that says its row and column among the tiles, or that it is the whole image.

    The image is stretched to a whole number of square tiles. The vision encoder's patches are joined by pixel
    shuffle, `scale_factor` x `scale_factor` to a token.
    """
    tokens = image.vlm.processor.image_seq_len
    ids = image.inputs["input_ids"][image.index]
    # A rendering's tokens stand together, behind the one that says which it is.
    tags = image.vlm.tokenizer.convert_ids_to_tokens([int(ids[p - 1]) for p in image.positions[::tokens]])
    tiles = [tuple(map(int, match.groups())) if (match := _TILE.fullmatch(tag)) else None for tag in tags]
    rows = max((tile[0] for tile in tiles if tile), default=1)
    cols = max((tile[1] for tile in tiles if tile), default=1)
    expected = [(row, col) for row in range(1, rows + 1) for col in range(1, cols + 1)]
    if tiles not in ([None], [*expected, None]):
        raise InputError(
            f"--model {image.vlm.name}: before its images stand the tokens {' '.join(tags)}; expected "
            "<row_1_col_1> and so on for the tiles, and another token for the whole image at the end"
        )
    side = image.inputs["pixel_values"].shape[-1]
    cell = image.config.vision_config.patch_size * image.config.scale_factor
    width, height = image.size
    grids = []
    for number, tile in enumerate(tiles):
        row, col = tile or (1, 1)
        down = Axis(height, side * (rows if tile else 1) / height, -(row - 1.0) * side)
        across = Axis(width, side * (cols if tile else 1) / width, -(col - 1.0) * side)
        name = f"tile {number + 1}" if tile else "global"
        grids.append(Grid(name, down.cells(side // cell, cell), across.cells(side // cell, cell)))
    return grids
