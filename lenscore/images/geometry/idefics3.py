"""Idefics3 and SmolVLM: tiles of a resized image in row-major order, the squashed whole image last."""

from __future__ import annotations

import re

from lenscore.images.geometry.grids import Grid, ProcessedImage, tile_grids
from storage_layouts.errors import InputError

_TILE = re.compile(r"<row_(\d+)_col_(\d+)>")


def idefics3_grids(image: ProcessedImage) -> list[Grid]:
    """A token before each view names its row and column among the tiles, or the whole image.

    The image is stretched to a whole number of square tiles. The vision encoder's patches are joined by pixel
    shuffle, `scale_factor` x `scale_factor` to a token.
    """
    ids = image.inputs["input_ids"][image.index]
    starts = image.positions[:: image.vlm.processor.image_seq_len]
    tags = image.vlm.tokenizer.convert_ids_to_tokens([int(ids[start - 1]) for start in starts])
    matches = [_TILE.fullmatch(tag) for tag in tags]
    tiles = [(int(match[1]) - 1, int(match[2]) - 1) if match else None for match in matches]
    rows = max((tile[0] for tile in tiles if tile), default=0) + 1
    cols = max((tile[1] for tile in tiles if tile), default=0) + 1
    if tiles not in ([None], [*((row, col) for row in range(rows) for col in range(cols)), None]):
        raise InputError(
            f"--model {image.vlm.name}: found the tokens {' '.join(tags)} before its views; expected "
            "<row_1_col_1> and so on for the tiles, and another token for the whole image at the end"
        )
    side = image.inputs["pixel_values"].shape[-1]
    cell = image.config.vision_config.patch_size * image.config.scale_factor
    return tile_grids(image, tiles, (rows, cols), (side, side), (cell, cell))
