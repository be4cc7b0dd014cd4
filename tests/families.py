"""A tiny random model and its real processor for every family, from configurations alone.

Image sizes, patches and tiles are small, but every step of the family's own processor is on: padding, tiles, pooling.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from tests.conftest import WORDS
from tests.family_models.gemma import gemma3, gemma4
from tests.family_models.glm_v import glm4v, glm4v_moe, glm46v, glm_ocr
from tests.family_models.llava import llava, llava_next, llava_onevision, mistral3, paligemma, pixtral
from tests.family_models.parts import DEPTH, INIT, Built
from tests.family_models.qwen_vl import qwen2_5_vl, qwen2_vl, qwen3_5, qwen3_5_moe, qwen3_vl, qwen3_vl_moe
from tests.family_models.tiled import aya_vision, cohere2_vision, idefics3, internvl, lfm2_vl, llama4, molmo2, smolvlm

__all__ = ["BUILDERS", "DEPTH", "FAMILIES", "WORDS", "save_family"]

BUILDERS: dict[str, Callable[[], Built]] = {
    builder.__name__: builder
    for builder in (
        llava,
        llava_next,
        llava_onevision,
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
        qwen3_vl_moe,
        qwen3_5,
        qwen3_5_moe,
        glm4v,
        glm4v_moe,
        glm46v,
        glm_ocr,
        molmo2,
        internvl,
        aya_vision,
        cohere2_vision,
        llama4,
        gemma3,
        gemma4,
        paligemma,
        idefics3,
        smolvlm,
        lfm2_vl,
        mistral3,
        pixtral,
    )
}

PLACES_ONLY = (
    "qwen3_vl_moe",
    "qwen3_5",
    "qwen3_5_moe",
    "glm4v",
    "glm4v_moe",
    "glm46v",
    "glm_ocr",
    "aya_vision",
    "cohere2_vision",
    "llama4",
    "lfm2_vl",
)
"""Families of which only the places and the self-test are tested: another family stands for the rest."""

FAMILIES: tuple[str, ...] = tuple(name for name in BUILDERS if name not in PLACES_ONLY)
"""Names of the other families: `config.model_type`, and "pixtral" for LLaVA with Pixtral's vision."""


def save_family(name: str, folder: Path) -> Path:
    """Save the tiny model and the processor of a family; `lenscore.load_vlm(folder, "cpu")` loads them."""
    torch.manual_seed(0)
    model, processor = BUILDERS[name]()
    with torch.no_grad():
        for part, weight in model.named_parameters():
            if "norm" in part and weight.ndim == 1 and "vision" not in part:
                weight.uniform_(0.5, 2.0)  # a norm that is not the identity can be forgotten
            elif "mm_input_projection" in part:
                weight.normal_(std=INIT)  # Gemma 3 begins with zeros, so that all images would look alike
            elif not weight.any() and weight.ndim > 1:
                weight.normal_(std=INIT)  # Gemma3's connector starts from zero
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
