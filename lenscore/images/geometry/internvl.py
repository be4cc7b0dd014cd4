"""InternVL: tiles of a resized image in row-major order, the squashed whole image last."""

from __future__ import annotations

from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from lenscore.images.geometry.grids import Grid, ProcessedImage, tile_grids


def internvl_grids(image: ProcessedImage) -> list[Grid]:
    """One view if the image has a single tile; otherwise the tiles, then a thumbnail of the whole image.

    The image is stretched to a whole number of tiles. The vision encoder's patches are joined by pixel shuffle.
    """
    width, height = image.size
    side = tuple(image.inputs["pixel_values"].shape[-2:])
    cols, rows = 1, 1
    if len(image.positions) > image.vlm.processor.image_seq_length:
        settings = image.settings
        cols, rows = get_optimal_tiled_canvas((height, width), side, settings.min_patches, settings.max_patches)
    tiles = [(row, col) for row in range(rows) for col in range(cols)] if rows * cols > 1 else []
    cell_height, cell_width = (int(p / image.config.downsample_ratio) for p in image.config.vision_config.patch_size)
    return tile_grids(image, [*tiles, None], (rows, cols), side, (cell_height, cell_width))
