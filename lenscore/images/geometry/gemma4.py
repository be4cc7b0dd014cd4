"""Gemma4: one view, resized to whole cells of pooling_kernel_size x pooling_kernel_size patches."""

from __future__ import annotations

from lenscore.images.geometry.grids import Grid, ProcessedImage, even


def gemma4_grids(image: ProcessedImage) -> list[Grid]:
    """The processor says each patch's (x, y) in image_position_ids, -1 where it only padded the list."""
    last_x, last_y = image.inputs["image_position_ids"][image.index].amax(dim=0).tolist()
    pool = image.config.vision_config.pooling_kernel_size
    return [Grid("global", even((last_y + 1) // pool), even((last_x + 1) // pool))]
