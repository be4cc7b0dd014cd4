"""The generations of Qwen-VL."""

from __future__ import annotations

from typing import Any

import transformers as hf
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lenscore.models.processors import no_video_processor
from tests.family_models.parts import (
    DIM,
    INIT,
    PATCH,
    QWEN_VISION,
    Built,
    rows_for,
    text_config,
    tokenizer,
)


def _qwen_words() -> hf.PreTrainedTokenizerFast:
    return tokenizer(
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )


def _qwen_ids(words: Any) -> dict[str, int]:
    return {
        "image_token_id": words.image_token_id,
        "video_token_id": words.video_token_id,
        "vision_start_token_id": words.vision_start_token_id,
        "vision_end_token_id": words.vision_end_token_id,
    }


def _qwen_images() -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=2, size={"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
    )


def qwen2_vl() -> Built:
    words = _qwen_words()
    config = hf.Qwen2VLConfig(
        vision_config=hf.models.qwen2_vl.configuration_qwen2_vl.Qwen2VLVisionConfig(
            depth=2, embed_dim=16, hidden_size=DIM, mlp_ratio=2, num_heads=2, patch_size=PATCH, initializer_range=INIT
        ),
        text_config=text_config(
            hf.Qwen2VLTextConfig, rows_for(words), rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2]}
        ),
        **_qwen_ids(words),
    )
    return hf.Qwen2VLForConditionalGeneration(config), hf.Qwen2VLProcessor(_qwen_images(), words, no_video_processor())


def qwen2_5_vl() -> Built:
    words = _qwen_words()
    config = hf.Qwen2_5_VLConfig(
        vision_config=hf.models.qwen2_5_vl.configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig(
            depth=2,
            hidden_size=16,
            intermediate_size=32,
            num_heads=2,
            patch_size=PATCH,
            out_hidden_size=DIM,
            window_size=4 * PATCH,
            fullatt_block_indexes=[1],
            initializer_range=INIT,
        ),
        text_config=text_config(
            hf.Qwen2_5_VLTextConfig,
            rows_for(words),
            rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2]},
        ),
        **_qwen_ids(words),
    )
    return hf.Qwen2_5_VLForConditionalGeneration(config), hf.Qwen2_5_VLProcessor(
        _qwen_images(), words, no_video_processor()
    )


def _qwen3(kind: str, text: dict[str, Any], **vision: Any) -> Built:
    """Qwen3-VL and later; `kind` is the beginning of the names of its classes."""
    words = _qwen_words()
    config = getattr(hf, f"{kind}Config")(
        vision_config={
            **QWEN_VISION,
            "out_hidden_size": DIM,
            "num_position_embeddings": 36,
            "initializer_range": INIT,
            **vision,
        },
        text_config=text_config(dict, rows_for(words), head_dim=8, **text),
        **_qwen_ids(words),
    )
    model = getattr(hf, f"{kind}ForConditionalGeneration")(config)
    return model, hf.Qwen3VLProcessor(_qwen_images(), words, no_video_processor())


_ROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}
_DEEPSTACK = {"depth": 3, "deepstack_visual_indexes": [0, 1]}
_EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
_LINEAR_ATTENTION = {
    "rope_parameters": {**_ROPE, "partial_rotary_factor": 1.0},
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}


def qwen3_vl() -> Built:
    return _qwen3("Qwen3VL", {"rope_parameters": _ROPE}, **_DEEPSTACK)


def qwen3_vl_moe() -> Built:
    return _qwen3("Qwen3VLMoe", {"rope_parameters": _ROPE, "num_experts": 4, **_EXPERTS}, **_DEEPSTACK)


def qwen3_5() -> Built:
    return _qwen3("Qwen3_5", _LINEAR_ATTENTION)


def qwen3_5_moe() -> Built:
    experts = {"num_experts": 4, "shared_expert_intermediate_size": 16, **_EXPERTS}
    return _qwen3("Qwen3_5Moe", {**_LINEAR_ATTENTION, **experts})
