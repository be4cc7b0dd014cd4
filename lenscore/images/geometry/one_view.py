"""Families with one view of the image: LLaVA-1.5, PaliGemma, DeepSeek-VL, Janus, and connectors trained on ViTs."""

from __future__ import annotations

from math import ceil
from typing import Any

from lenscore.images.geometry.grids import Axis, Grid, ProcessedImage
from storage_layouts.errors import InputError


def one_view_grids(image: ProcessedImage) -> list[Grid]:
    """(height / patch) x (width / patch) tokens in row-major order, after a class token if that is kept."""
    height, width = image.inputs["pixel_values"][image.index].shape[-2:]
    patch = image.config.vision_config.patch_size
    across, down = processor_axes(image.settings, image.size, (width, height))
    rows, cols = height // patch, width // patch
    keeps_all = getattr(image.config, "vision_feature_select_strategy", None) == "full"
    class_token = int(keeps_all and len(image.positions) == rows * cols + 1)
    return [Grid("global", down.cells(rows, patch), across.cells(cols, patch), before=class_token)]


def fitted_grids(image: ProcessedImage) -> list[Grid]:
    """DeepSeek-VL and Janus: the image is resized to fit into a square, and padded on both sides.

    Neither side gets shorter than min_size, so very thin images are stretched.
    """
    side, patch = image.settings.size["height"], image.config.vision_config.patch_size
    fit = side / max(image.size)
    made = [max(round(length * fit), image.settings.min_size) for length in image.size]
    across, down = (
        Axis(length, new / length, float((side - new) // 2)) for length, new in zip(image.size, made, strict=True)
    )
    return [Grid("global", down.cells(side // patch, patch), across.cells(side // patch, patch))]


def processor_axes(image_processor: Any, size: tuple[int, int], processed: tuple[int, int]) -> tuple[Axis, Axis]:
    """The horizontal and vertical axis of a CLIP-like image processor, from its settings.

    Its steps: padding to a square (LLaVA's processor with do_pad), resizing, centre crop (with padding if the image is
    smaller than the crop), padding at the end (CLIP's do_pad). `size` is the original (width, height), `processed` that
    of pixel_values. Raises InputError if these steps do not result in `processed`.
    """

    def has(setting: str) -> bool:
        return bool(getattr(image_processor, setting, None))

    lengths, shifts, scales = list(size), [0.0, 0.0], [1.0, 1.0]
    pads_to_square = has("do_pad") and hasattr(image_processor, "pad_to_square")
    if pads_to_square:
        square = max(lengths)
        shifts = [float((square - length) // 2) for length in lengths]
        lengths = [square, square]
    if has("do_resize"):
        resized = resized_size(image_processor.size, (lengths[0], lengths[1]))
        scales = [new / old for new, old in zip(resized, lengths, strict=True)]
        shifts = [shift * scale for shift, scale in zip(shifts, scales, strict=True)]
        lengths = list(resized)
    if has("do_center_crop"):
        crop = (image_processor.crop_size["width"], image_processor.crop_size["height"])
        pil = getattr(image_processor, "backend", "pil") == "pil"
        shifts = [shift - _crop_start(old, new, pil) for shift, old, new in zip(shifts, lengths, crop, strict=True)]
        lengths = list(crop)
    padded = (
        has("do_pad")
        and not pads_to_square
        and all(made <= full for made, full in zip(lengths, processed, strict=True))
    )
    if tuple(lengths) != processed and not padded:
        raise InputError(
            f"{type(image_processor).__name__}: its settings give {lengths[0]} x {lengths[1]} pixels for an image of "
            f"{size[0]} x {size[1]}, but it made {processed[0]} x {processed[1]}; its geometry is not supported"
        )
    return Axis(size[0], scales[0], shifts[0]), Axis(size[1], scales[1], shifts[1])


def resized_size(setting: Any, size: tuple[int, int]) -> tuple[int, int]:
    """The (width, height) to which a processor with the `size` setting `setting` resizes an image of `size`."""
    shortest, longest = setting.get("shortest_edge"), setting.get("longest_edge")
    if setting.get("height") and setting.get("width"):
        return setting["width"], setting["height"]
    if shortest and not longest:
        # Rounded down, and in this order of operations, as transformers and torchvision do it.
        width, height = size
        if width <= height:
            return shortest, int(shortest * height / width)
        return int(shortest * width / height), shortest
    raise InputError(f"image processor: size {setting} is not supported; expected height and width, or shortest_edge")


def _crop_start(length: int, crop: int, pil: bool) -> int:
    """First pixel of the centre crop, negative if the image is smaller and is padded.

    The two image backends of transformers round an odd number of added pixels differently.
    """
    if length >= crop:
        return (length - crop) // 2
    return -ceil((crop - length) / 2) if pil else -((crop - length) // 2)
