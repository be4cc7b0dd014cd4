"""The three generations of Qwen-VL."""

from __future__ import annotations

from typing import Any

import transformers as hf
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lenscore.models.processors import no_video_processor
from tests.family_models.parts import (
    DIM,
    INIT,
    PATCH,
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


def qwen3_vl() -> Built:
    words = _qwen_words()
    config = hf.Qwen3VLConfig(
        vision_config=hf.Qwen3VLVisionConfig(
            depth=3,
            hidden_size=16,
            intermediate_size=32,
            num_heads=2,
            patch_size=PATCH,
            out_hidden_size=DIM,
            num_position_embeddings=36,
            deepstack_visual_indexes=[0, 1],
            initializer_range=INIT,
        ),
        text_config=text_config(
            hf.Qwen3VLTextConfig,
            rows_for(words),
            head_dim=8,
            rope_parameters={"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True},
        ),
        **_qwen_ids(words),
    )
    return hf.Qwen3VLForConditionalGeneration(config), hf.Qwen3VLProcessor(_qwen_images(), words, no_video_processor())
