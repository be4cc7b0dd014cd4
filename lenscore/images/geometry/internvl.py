"""InternVL: tiles of a resized image in row-major order, the squashed whole image last."""

from __future__ import annotations

from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from lenscore.images.geometry.grids import Axis, Grid, ProcessedImage


def internvl_grids(image: ProcessedImage) -> list[Grid]:
    """An image that gets one tile only is one view; otherwise a thumbnail of the whole image follows the tiles.

    The image is stretched to a whole number of tiles. The vision encoder's patches are joined by pixel shuffle.
    """
    width, height = image.size
    tile_height, tile_width = image.inputs["pixel_values"].shape[-2:]
    cols, rows = 1, 1
    if len(image.positions) > image.vlm.processor.image_seq_length:
        settings = image.settings
        cols, rows = get_optimal_tiled_canvas(
            (height, width), (tile_height, tile_width), settings.min_patches, settings.max_patches
        )
    patch_height, patch_width = image.config.vision_config.patch_size
    cell_height, cell_width = (int(patch / image.config.downsample_ratio) for patch in (patch_height, patch_width))
    grids = []
    for tile in range(rows * cols + 1 if rows * cols > 1 else 1):
        whole = tile == rows * cols or rows * cols == 1
        row, col = (0, 0) if whole else divmod(tile, cols)
        down = Axis(height, tile_height * (1 if whole else rows) / height, float(-row * tile_height))
        across = Axis(width, tile_width * (1 if whole else cols) / width, float(-col * tile_width))
        grids.append(
            Grid(
                "global" if whole else f"tile {tile + 1}",
                down.cells(tile_height // cell_height, cell_height),
                across.cells(tile_width // cell_width, cell_width),
            )
        )
    return grids
