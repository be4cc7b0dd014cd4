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
from tests.family_models.like_qwen import (
    cohere_compass,
    cosmos3_omni,
    ernie4_5_vl_moe,
    exaone4_5,
    hyperclovax_vision_v2,
    kimi_k25,
    lfm3_vl,
    minimax_m3_vl,
    muse_glimmer,
    paddleocr_vl,
    video_llama_3,
)
from tests.family_models.llava import (
    deepseek_vl,
    janus,
    lighton_ocr,
    llava,
    llava_next,
    llava_onevision,
    mistral3,
    mistral_large4,
    paligemma,
    pixtral,
)
from tests.family_models.parts import DEPTH, INIT, Built
from tests.family_models.qwen_vl import qwen2_5_vl, qwen2_vl, qwen3_5, qwen3_5_moe, qwen3_vl, qwen3_vl_moe
from tests.family_models.tiled import (
    aya_vision,
    cohere2_vision,
    idefics3,
    internvl,
    lfm2_vl,
    llama4,
    molmo2,
    ovis2,
    smolvlm,
)

__all__ = ["BUILDERS", "DEPTH", "FAMILIES", "OWN_PLACES", "WORDS", "save_family"]

Builder = Callable[[], Built]

WHOLE: tuple[Builder, ...] = (
    llava,
    llava_next,
    llava_onevision,
    qwen2_vl,
    qwen2_5_vl,
    qwen3_vl,
    molmo2,
    internvl,
    gemma3,
    gemma4,
    paligemma,
    idefics3,
    smolvlm,
    mistral3,
    pixtral,
)
"""Families that every test of families runs."""

OWN: tuple[Builder, ...] = (
    qwen3_5,
    glm4v,
    ernie4_5_vl_moe,
    video_llama_3,
    kimi_k25,
    aya_vision,
    cohere2_vision,
    ovis2,
    llama4,
    lfm2_vl,
    deepseek_vl,
)
"""Families with an image processor or a grid function that none of the first has; tests of places and of the self-test
run them.
"""

ALIKE: tuple[Builder, ...] = (
    qwen3_vl_moe,
    qwen3_5_moe,
    glm4v_moe,
    glm46v,
    glm_ocr,
    exaone4_5,
    hyperclovax_vision_v2,
    cosmos3_omni,
    cohere_compass,
    lfm3_vl,
    paddleocr_vl,
    muse_glimmer,
    minimax_m3_vl,
    janus,
    lighton_ocr,
    mistral_large4,
)
"""Families of which only the places are tested, in two sizes."""

BUILDERS = {builder.__name__: builder for builder in (*WHOLE, *OWN, *ALIKE)}
"""By name: `config.model_type`, and "pixtral" for LLaVA with Pixtral's vision."""

FAMILIES = tuple(builder.__name__ for builder in WHOLE)
OWN_PLACES = tuple(builder.__name__ for builder in (*WHOLE, *OWN))


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
