"""The families of GLM-4V."""

from __future__ import annotations

from typing import Any

import transformers as hf
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil

from lenscore.models.processors import no_video_processor
from tests.family_models.parts import DIM, HEADS, INIT, PATCH, QWEN_VISION, Built, rows_for, text_config, tokenizer

_SIZE = {"shortest_edge": 2 * 32 * 32, "longest_edge": 2 * 96 * 96}
"""Pixels of the two equal frames that the processor makes of an image."""


def _glm(kind: str, images: type = Glm4vImageProcessorPil, processor: str = "Glm4v", **text: Any) -> Built:
    words = tokenizer(
        image_token="<|image|>",
        video_token="<|video|>",
        image_start_token="<|begin_of_image|>",
        image_end_token="<|end_of_image|>",
        video_start_token="<|begin_of_video|>",
        video_end_token="<|end_of_video|>",
    )
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "partial_rotary_factor": 1.0}
    kinds = ("image_token", "video_token", "image_start_token", "image_end_token", "video_start_token")
    config = getattr(hf, f"{kind}Config")(
        vision_config={
            **QWEN_VISION,
            "image_size": 6 * PATCH,
            "out_hidden_size": DIM,
            "initializer_range": INIT,
        },
        text_config=text_config(dict, rows_for(words), head_dim=DIM // HEADS, rope_parameters=rope, **text),
        **{f"{name}_id": getattr(words, f"{name}_id") for name in (*kinds, "video_end_token")},
    )
    parts = (images(patch_size=PATCH, size=_SIZE), words, no_video_processor())
    return getattr(hf, f"{kind}ForConditionalGeneration")(config), getattr(hf, f"{processor}Processor")(*parts)


def glm4v() -> Built:
    return _glm("Glm4v")


def glm4v_moe() -> Built:
    return _glm("Glm4vMoe", moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2)


def glm46v() -> Built:
    return _glm("Glm46V", Glm46VImageProcessorPil, "Glm46V")


def glm_ocr() -> Built:
    return _glm("GlmOcr", Glm46VImageProcessorPil, "Glm46V")
