"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: one view, resized to whole cells of merge_size x merge_size patches."""

from __future__ import annotations

from lenscore.images.geometry.grids import Grid, ProcessedImage, even


def qwen_vl_grids(image: ProcessedImage) -> list[Grid]:
    """The processor says the grid in patches, image_grid_thw = (frames, rows, cols); the merger joins some."""
    _, rows, cols = image.inputs["image_grid_thw"][image.index].tolist()
    merge = image.config.vision_config.spatial_merge_size
    return [Grid("global", even(rows // merge), even(cols // merge))]
