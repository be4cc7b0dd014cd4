"""The box of each visual token on the image: one small function per model family.

A cell in the processed pixels is mapped back through pooling, tiles, crop, padding and resize to the original image, as
floats in 0..1, from the settings and outputs of the image processor. Tokens without a place (newlines, separators,
class tokens) are not patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lenscore.images.geometry.anyres import anyres_grids
from lenscore.images.geometry.gemma3 import gemma3_grids
from lenscore.images.geometry.grids import Grid, ImageGeometry, ProcessedImage, place
from lenscore.images.geometry.idefics3 import idefics3_grids, lfm2_vl_grids
from lenscore.images.geometry.internvl import internvl_grids
from lenscore.images.geometry.kimi import kimi_grids
from lenscore.images.geometry.llama4 import llama4_grids
from lenscore.images.geometry.molmo2 import molmo2_grids
from lenscore.images.geometry.one_view import fitted_grids, one_view_grids
from lenscore.images.geometry.ovis2 import ovis2_grids
from lenscore.images.geometry.resized import gemma4_grids, pixtral_grids, qwen_vl_grids
from lenscore.images.geometry.unknown import unknown_grids
from lenscore.images.image_files import UnreadableImageError
from lenscore.models.decoder import text_config_of
from lenscore.models.loading import Vlm
from storage_layouts.errors import InputError

GridsOf = Callable[[ProcessedImage], list[Grid]]

FAMILIES: dict[str, GridsOf] = {
    "llava": one_view_grids,
    "lenscore_llava": one_view_grids,
    "llava_next": anyres_grids,
    "llava_onevision": anyres_grids,
    "qwen2_vl": qwen_vl_grids,
    "qwen2_5_vl": qwen_vl_grids,
    "qwen3_vl": qwen_vl_grids,
    "qwen3_vl_moe": qwen_vl_grids,
    "qwen3_5": qwen_vl_grids,
    "qwen3_5_moe": qwen_vl_grids,
    "glm4v": qwen_vl_grids,
    "glm4v_moe": qwen_vl_grids,
    "glm46v": qwen_vl_grids,
    "glm_ocr": qwen_vl_grids,
    "ernie4_5_vl_moe": qwen_vl_grids,
    "exaone4_5": qwen_vl_grids,
    "hyperclovax_vision_v2": qwen_vl_grids,
    "cohere_compass": qwen_vl_grids,
    "cosmos3_omni": qwen_vl_grids,
    "lfm3_vl": qwen_vl_grids,
    "minimax_m3_vl": qwen_vl_grids,
    "muse_glimmer": qwen_vl_grids,
    "paddleocr_vl": qwen_vl_grids,
    "video_llama_3": qwen_vl_grids,
    "kimi_k25": kimi_grids,
    "molmo2": molmo2_grids,
    "internvl": internvl_grids,
    "aya_vision": internvl_grids,
    "cohere2_vision": internvl_grids,
    "ovis2": ovis2_grids,
    "llama4": llama4_grids,
    "gemma3": gemma3_grids,
    "gemma4": gemma4_grids,
    "paligemma": one_view_grids,
    "deepseek_vl": fitted_grids,
    "janus": fitted_grids,
    "idefics3": idefics3_grids,
    "smolvlm": idefics3_grids,
    "lfm2_vl": lfm2_vl_grids,
    "mistral3": pixtral_grids,
    "mistral_large4": pixtral_grids,
    "lighton_ocr": pixtral_grids,
    "pixtral": pixtral_grids,
}
"""Patch grids by `family_name`."""


def image_geometry(vlm: Vlm, inputs: Any, sizes: Sequence[tuple[int, int]]) -> list[ImageGeometry]:
    """The geometry of every image of a batch (one image per row of `inputs`).

    `inputs` are the processor's outputs (input_ids [B, T], pixel_values and so on), `sizes` the original
    (width, height) of each image. Raises InputError for a grid that does not fit the number of visual tokens,
    UnreadableImageError for an image with a view without patches.
    """
    grids_of = family_of(vlm.model.config, vlm.name)
    positions = visual_tokens(vlm, inputs["input_ids"])
    images = [
        ProcessedImage(vlm, inputs, i, size, positions[i].nonzero().flatten().tolist()) for i, size in enumerate(sizes)
    ]
    geometries = [place(grids_of(image), image) for image in images]
    for geometry in geometries:
        for view in geometry.views:
            if not view.rows or not view.cols:
                raise UnreadableImageError(
                    f"{geometry.width} x {geometry.height} pixels: so thin that the model's view {view.name!r} of it "
                    f"has {view.rows} x {view.cols} patches"
                )
    return geometries


def visual_tokens(vlm: Vlm, input_ids: Tensor) -> Tensor:
    """Mask [B, T] (bool) of the image positions in the LLM's input."""
    return input_ids == vlm.model.config.image_token_id


def family_name(config: Any) -> str:
    """The family of a model: its model_type, or "pixtral" for a LLaVA with Pixtral's vision encoder."""
    tower = getattr(getattr(config, "vision_config", None), "model_type", None)
    return "pixtral" if (config.model_type, tower) == ("llava", "pixtral") else config.model_type


def unknown_family(config: Any) -> str | None:
    """The model_type of a model of an unknown family; None if its family is known."""
    return None if family_name(config) in FAMILIES else str(config.model_type)


def family_of(config: Any, name: str) -> GridsOf:
    """The function for the patch grids of a model; `unknown_grids` for a family that is not in `FAMILIES`.

    `name` is the user's name of the model. Raises InputError if its language model has no visual tokens, or if the
    configuration has no image token.
    """
    reason = None
    if config.is_encoder_decoder or getattr(text_config_of(config), "cross_attention_layers", None):
        reason = "its language model reads images by cross attention, so no visual tokens pass through its layers"
    elif getattr(config, "image_token_id", None) is None:
        reason = f"its configuration ({config.model_type!r}) has no image_token_id, so its visual tokens are unknown"
    if reason is not None:
        raise InputError(f"--model {name}: {reason}; expected a family such as {', '.join(sorted(FAMILIES))}")
    return FAMILIES.get(family_name(config), unknown_grids)


def stack_positions(geometries: Sequence[ImageGeometry]) -> Tensor:
    """Indices of the patches' states: int64 [patches of all images, 2] of (image in the batch, position)."""
    pairs = [(i, patch.position) for i, geometry in enumerate(geometries) for patch in geometry.patches]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
