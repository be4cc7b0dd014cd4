"""Mistral3, and LLaVA with Pixtral's vision encoder: one view, resized to whole cells, one row a line of tokens."""

from __future__ import annotations

from lenscore.images.geometry.grids import Grid, ProcessedImage, even
from lenscore.images.image_files import UnreadableImageError


def pixtral_grids(image: ProcessedImage) -> list[Grid]:
    """The processor says the resized (height, width); [IMG_BREAK] and [IMG_END] are other tokens than [IMG].

    Images of a batch are padded behind to the largest, which the model cuts off again. Raises UnreadableImageError
    for an image of a single token of Mistral3.
    """
    height, width = image.inputs["image_sizes"][image.index].tolist()
    cell = image.config.vision_config.patch_size * getattr(image.config, "spatial_merge_size", 1)
    # Mistral3 of transformers 5 fails on one token, but only if the image is alone in its batch.
    if image.config.model_type == "mistral3" and len(image.positions) == 1:
        raise UnreadableImageError(f"too small: {width} x {height} pixels are one visual token, expected two or more")
    return [Grid("global", even(height // cell), even(width // cell))]
