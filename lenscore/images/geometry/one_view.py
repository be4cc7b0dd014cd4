"""Families that show the model one rendering of the image: LLaVA-1.5, PaliGemma, and connectors trained on ViTs."""

from __future__ import annotations

from math import ceil
from typing import Any

from lenscore.images.geometry.grids import Axis, Grid, ProcessedImage
from storage_layouts.errors import InputError


def one_view_grids(image: ProcessedImage) -> list[Grid]:
    """(height / patch) x (width / patch) tokens in row-major order, behind a class token if that is kept."""
    height, width = image.inputs["pixel_values"][image.index].shape[-2:]
    patch = image.config.vision_config.patch_size
    across, down = processor_axes(image.settings, image.size, (width, height))
    rows, cols = height // patch, width // patch
    # The vision tower's class token comes first, and looks at no place.
    keeps_all = getattr(image.config, "vision_feature_select_strategy", None) == "full"
    class_token = int(keeps_all and len(image.positions) == rows * cols + 1)
    return [Grid("global", down.cells(rows, patch), across.cells(cols, patch), before=class_token)]


def processor_axes(image_processor: Any, size: tuple[int, int], processed: tuple[int, int]) -> tuple[Axis, Axis]:
    """What a CLIP-like image processor does to the horizontal and the vertical axis, from its own settings.

    Steps, in the processor's order: padding to a square (LLaVA's processor with do_pad), resizing, centre crop (with
    padding if the image is smaller than the crop), padding behind (CLIP's do_pad). `size` is the original
    (width, height), `processed` the size of pixel_values. Raises InputError if these steps do not give `processed`.
    """
    lengths, shifts, scales = list(size), [0.0, 0.0], [1.0, 1.0]
    pads_to_square = bool(_setting(image_processor, "do_pad")) and hasattr(image_processor, "pad_to_square")
    if pads_to_square:
        square = max(lengths)
        shifts = [float((square - length) // 2) for length in lengths]
        lengths = [square, square]
    if _setting(image_processor, "do_resize"):
        resized = resized_size(image_processor.size, (lengths[0], lengths[1]))
        scales = [new / old for new, old in zip(resized, lengths, strict=True)]
        shifts = [shift * scale for shift, scale in zip(shifts, scales, strict=True)]
        lengths = list(resized)
    if _setting(image_processor, "do_center_crop"):
        crop = (image_processor.crop_size["width"], image_processor.crop_size["height"])
        pil = getattr(image_processor, "backend", "pil") == "pil"
        shifts = [shift - _crop_start(old, new, pil) for shift, old, new in zip(shifts, lengths, crop, strict=True)]
        lengths = list(crop)
    pads_behind = bool(_setting(image_processor, "do_pad")) and not pads_to_square
    padded = pads_behind and all(made <= full for made, full in zip(lengths, processed, strict=True))
    if tuple(lengths) != processed and not padded:
        raise InputError(
            f"{type(image_processor).__name__}: its settings give {lengths[0]} x {lengths[1]} pixels for an image of "
            f"{size[0]} x {size[1]}, but it made {processed[0]} x {processed[1]}; its geometry is not understood"
        )
    return Axis(size[0], scales[0], shifts[0]), Axis(size[1], scales[1], shifts[1])


def resized_size(asked: Any, size: tuple[int, int]) -> tuple[int, int]:
    """The (width, height) that a processor's `size` setting gives an image of `size` (width, height)."""
    shortest, longest = asked.get("shortest_edge"), asked.get("longest_edge")
    if asked.get("height") and asked.get("width"):
        return asked["width"], asked["height"]
    if shortest and not longest:
        # Rounded down, and in this order of operations, as transformers and torchvision do it.
        width, height = size
        if width <= height:
            return shortest, int(shortest * height / width)
        return int(shortest * width / height), shortest
    raise InputError(f"image processor: size {asked} is not understood; expected height and width, or shortest_edge")


def _crop_start(length: int, crop: int, pil: bool) -> int:
    """First pixel of the centre crop, negative where the image is smaller and gets padded.

    The two image backends of transformers round differently when an odd number of pixels is to be added.
    """
    if length >= crop:
        return (length - crop) // 2
    return -ceil((crop - length) / 2) if pil else -((crop - length) // 2)


def _setting(image_processor: Any, name: str) -> Any:
    return getattr(image_processor, name, None)
