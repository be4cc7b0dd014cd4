"""torchvision's pixel functions by torch, for image processors of transformers that have no variant without it.

The processors are the real ones; without torchvision their modules find these functions in its place.
"""

from __future__ import annotations

import enum
import importlib
import sys
import types
from collections.abc import Sequence
from typing import Any

import torch
import transformers as hf
from PIL.Image import Resampling
from torch.nn.functional import interpolate
from transformers import image_processing_backends
from transformers.utils import is_torchvision_available


class InterpolationMode(enum.Enum):
    """Those that the tests need."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"  # only compared with


def resize(image: torch.Tensor, size: Any, interpolation: InterpolationMode, antialias: bool = True) -> torch.Tensor:
    """Images [..., 3, height, width], uint8 or float."""
    made = interpolate(
        image.float().reshape(-1, *image.shape[-3:]), tuple(size), mode=interpolation.value, antialias=antialias
    ).reshape(*image.shape[:-2], *size)
    return made if image.is_floating_point() else made.round().clamp(0, 255).to(image.dtype)


def normalize(image: torch.Tensor, mean: Any, std: Any, inplace: bool = False) -> torch.Tensor:
    """Images [..., 3, height, width]."""
    mean, std = (torch.as_tensor(value, dtype=image.dtype).reshape(-1, 1, 1) for value in (mean, std))
    return (image - mean) / std


def pad(image: torch.Tensor, padding: Sequence[int], fill: Any = 0, padding_mode: str = "constant") -> torch.Tensor:
    """Padding is left, top, right, bottom."""
    left, top, right, bottom = padding
    value = fill[0] if isinstance(fill, list) else fill
    return torch.nn.functional.pad(image, (left, right, top, bottom), mode=padding_mode, value=value)


def image_processor(config: type, module: str, name: str) -> Any:
    """The image processor `name` of `module` in transformers.models, which its AutoImageProcessor then finds too."""
    path = f"transformers.models.{module}"
    if is_torchvision_available():
        return getattr(importlib.import_module(path), name)
    functional = types.SimpleNamespace(resize=resize, normalize=normalize, pad=pad, InterpolationMode=InterpolationMode)
    image_processing_backends.tvF = functional
    image_processing_backends.pil_torch_interpolation_mapping = {
        Resampling.BILINEAR: InterpolationMode.BILINEAR,
        Resampling.BICUBIC: InterpolationMode.BICUBIC,
        Resampling.LANCZOS: InterpolationMode.BICUBIC,  # which torch does not have
    }
    parts = ("torchvision", "torchvision.transforms", "torchvision.transforms.v2")
    missing = {part: types.ModuleType(part) for part in parts}
    missing[parts[-1]].functional = functional
    sys.modules.update(missing)
    try:
        kind = getattr(importlib.import_module(path), name)
    finally:
        for part in parts:
            del sys.modules[part]
    hf.AutoImageProcessor.register(config, image_processor_classes={"pil": kind, "torchvision": None}, exist_ok=True)
    return kind
