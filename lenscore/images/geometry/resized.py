"""Families with one view, which the processor resizes to whole cells: Gemma4, Pixtral, Qwen-VL, and those like them."""

from __future__ import annotations

from lenscore.images.geometry.grids import Grid, ProcessedImage, even
from lenscore.images.image_files import UnreadableImageError


def gemma4_grids(image: ProcessedImage) -> list[Grid]:
    """Gemma4: cells of pooling_kernel_size x pooling_kernel_size patches.

    The processor returns each patch's (x, y) in image_position_ids, -1 for padding.
    """
    last_x, last_y = image.inputs["image_position_ids"][image.index].amax(dim=0).tolist()
    pool = image.config.vision_config.pooling_kernel_size
    return [Grid("global", even((last_y + 1) // pool), even((last_x + 1) // pool))]


def qwen_vl_grids(image: ProcessedImage) -> list[Grid]:
    """The families of Qwen-VL and GLM-V, and more: cells of merge_size x merge_size patches.

    The processor returns the grid in patches, image_grid_thw = (frames, rows, columns). That alone is not enough: some
    processors pad the image (Kimi K2.5), so `FAMILIES` names the families that were tried.
    """
    _, rows, cols = image.inputs["image_grid_thw"][image.index].tolist()
    merge = image.settings.merge_size
    return [Grid("global", even(rows // merge), even(cols // merge))]


def pixtral_grids(image: ProcessedImage) -> list[Grid]:
    """Those with Pixtral's vision encoder; the tokens that end a row are other tokens than the patches'.

    The processor returns the resized (height, width), and pads the images of a batch to the largest, which the model
    reverses. Raises UnreadableImageError for an image of a single token of Mistral's own families.
    """
    height, width = image.inputs["image_sizes"][image.index].tolist()
    cell = image.config.vision_config.patch_size * getattr(image.config, "spatial_merge_size", 1)
    # They fail on one token in transformers 5, but only if the image is alone in its batch.
    if image.config.model_type in ("mistral3", "mistral_large4") and len(image.positions) == 1:
        raise UnreadableImageError(f"too small: {width} x {height} pixels are one visual token, expected two or more")
    return [Grid("global", even(height // cell), even(width // cell))]
