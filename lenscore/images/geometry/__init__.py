"""Where on the image a visual token looks: one small function per model family.

A box is read from what the image processor really does (its own settings and outputs), and undone: from the cell in
the processed pixels back through pooling, tiles, crop, padding and resize to the original picture, as floats in 0..1.
What has no place (newlines, separators, class tokens) is no patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lenscore.images.geometry.anyres import anyres_grids
from lenscore.images.geometry.gemma3 import gemma3_grids
from lenscore.images.geometry.gemma4 import gemma4_grids
from lenscore.images.geometry.grids import Grid, ImageGeometry, Patch, ProcessedImage, View, place
from lenscore.images.geometry.idefics3 import idefics3_grids
from lenscore.images.geometry.internvl import internvl_grids
from lenscore.images.geometry.molmo2 import molmo2_grids
from lenscore.images.geometry.one_view import one_view_grids
from lenscore.images.geometry.pixtral import pixtral_grids
from lenscore.images.geometry.qwen_vl import qwen_vl_grids
from lenscore.images.geometry.unknown import unknown_grids
from lenscore.images.image_files import UnreadableImageError
from lenscore.models.loading import Vlm
from storage_layouts.errors import InputError

__all__ = [
    "FAMILIES",
    "ImageGeometry",
    "Patch",
    "View",
    "family_name",
    "family_of",
    "image_geometry",
    "stack_positions",
    "unknown_family",
    "visual_tokens",
]

GridsOf = Callable[[ProcessedImage], list[Grid]]

FAMILIES: dict[str, GridsOf] = {
    "llava": one_view_grids,
    "lenscore_llava": one_view_grids,
    "llava_next": anyres_grids,
    "llava_onevision": anyres_grids,
    "qwen2_vl": qwen_vl_grids,
    "qwen2_5_vl": qwen_vl_grids,
    "qwen3_vl": qwen_vl_grids,
    "molmo2": molmo2_grids,
    "internvl": internvl_grids,
    "gemma3": gemma3_grids,
    "gemma4": gemma4_grids,
    "paligemma": one_view_grids,
    "idefics3": idefics3_grids,
    "smolvlm": idefics3_grids,
    "mistral3": pixtral_grids,
    "pixtral": pixtral_grids,
}
"""Patch grids by `family_name`."""


def image_geometry(vlm: Vlm, inputs: Any, sizes: Sequence[tuple[int, int]]) -> list[ImageGeometry]:
    """The geometry of every image of a batch (one image per row of `inputs`).

    `inputs` are the processor's outputs (input_ids [B, T], pixel_values and so on), `sizes` the original
    (width, height) of each image. Raises InputError for a grid that does not fit the number of visual tokens,
    UnreadableImageError for an image of which the model sees nothing in one of its views.
    """
    grids_of = family_of(vlm.model.config, vlm.name)
    positions = visual_tokens(vlm, inputs["input_ids"])
    images = [
        ProcessedImage(vlm, inputs, i, size, positions[i].nonzero().flatten().tolist()) for i, size in enumerate(sizes)
    ]
    geometries = [place(grids_of(image), image) for image in images]
    for geometry in geometries:
        _refuse_empty_views(geometry)
    return geometries


def _refuse_empty_views(geometry: ImageGeometry) -> None:
    """A processor may leave no patch of a very thin picture."""
    for view in geometry.views:
        if not view.rows or not view.cols:
            raise UnreadableImageError(
                f"{geometry.width} x {geometry.height} pixels: so thin that the model's view {view.name!r} of it has "
                f"{view.rows} x {view.cols} patches"
            )


def visual_tokens(vlm: Vlm, input_ids: Tensor) -> Tensor:
    """Mask [B, T] (bool): which positions of the LLM's input are image positions."""
    return input_ids == vlm.model.config.image_token_id


def family_name(config: Any) -> str:
    """The family of a model: its model_type, or "pixtral" for a LLaVA with Pixtral's vision encoder."""
    tower = getattr(getattr(config, "vision_config", None), "model_type", None)
    return "pixtral" if (config.model_type, tower) == ("llava", "pixtral") else config.model_type


def unknown_family(config: Any) -> str | None:
    """The model_type of a model whose patch grids can only be guessed; None if its family is known."""
    return None if family_name(config) in FAMILIES else str(config.model_type)


def family_of(config: Any, name: str) -> GridsOf:
    """The function that knows the patch grids of a model, from its configuration alone.

    A family that is not in `FAMILIES` gets the fallback of `unknown_grids`, whose views are named accordingly.
    `name` is how the user called the model. Raises InputError if nothing says which tokens are image tokens.
    """
    if getattr(config, "image_token_id", None) is None:
        raise InputError(
            f"--model {name}: its configuration ({config.model_type!r}) has no image_token_id, so nothing says which "
            f"tokens are visual; expected a family such as {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES.get(family_name(config), unknown_grids)


def stack_positions(geometries: Sequence[ImageGeometry]) -> Tensor:
    """Which states to gather: int64 [patches of all images, 2] of (image in the batch, position in the input)."""
    pairs = [(i, patch.position) for i, geometry in enumerate(geometries) for patch in geometry.patches]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
