"""Families with one view, which the processor resizes to whole cells: Gemma4, Mistral3, Pixtral, Qwen-VL, GLM-V."""

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
    """The families of Qwen-VL and GLM-V: cells of merge_size x merge_size patches.

    The processor returns the grid in patches, image_grid_thw = (frames, rows, columns). Others that return it are not
    of this kind if they pad the image, or order or join its patches in another way.
    """
    _, rows, cols = image.inputs["image_grid_thw"][image.index].tolist()
    merge = image.settings.merge_size
    return [Grid("global", even(rows // merge), even(cols // merge))]


def pixtral_grids(image: ProcessedImage) -> list[Grid]:
    """Mistral3, and LLaVA with Pixtral's vision encoder; [IMG_BREAK] and [IMG_END] are other tokens than [IMG].

    The processor returns the resized (height, width), and pads the images of a batch to the largest, which the model
    reverses. Raises UnreadableImageError for an image of a single token of Mistral3.
    """
    height, width = image.inputs["image_sizes"][image.index].tolist()
    cell = image.config.vision_config.patch_size * getattr(image.config, "spatial_merge_size", 1)
    # Mistral3 of transformers 5 fails on one token, but only if the image is alone in its batch.
    if image.config.model_type == "mistral3" and len(image.positions) == 1:
        raise UnreadableImageError(f"too small: {width} x {height} pixels are one visual token, expected two or more")
    return [Grid("global", even(height // cell), even(width // cell))]
