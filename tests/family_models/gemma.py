"""Gemma3 and Gemma4."""

from __future__ import annotations

import transformers as hf
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

from lenscore.models.processors import no_video_processor
from tests.family_models.parts import (
    INIT,
    PATCH,
    SIDE,
    Built,
    rows_for,
    text_config,
    tokenizer,
    vision_config,
)


def gemma3() -> Built:
    words = tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    config = hf.Gemma3Config(
        vision_config=vision_config(hf.SiglipVisionConfig, image_size=SIDE, vision_use_head=False),
        text_config=text_config(
            hf.Gemma3TextConfig,
            rows_for(words),
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention"] * 2,
        ),
        mm_tokens_per_image=4,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
        initializer_range=INIT,
    )
    images = Gemma3ImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        do_pan_and_scan=True,
        pan_and_scan_min_crop_size=16,
        pan_and_scan_max_num_crops=4,
        pan_and_scan_min_ratio_to_activate=1.2,
    )
    return hf.Gemma3ForConditionalGeneration(config), hf.Gemma3Processor(images, words, image_seq_length=4)


def gemma4() -> Built:
    words = tokenizer(
        image_token="<|image|>",
        boi_token="<|image>",
        eoi_token="<image|>",
        audio_token="<|audio|>",
        boa_token="<|audio>",
        eoa_token="<audio|>",
        video_token="<|video|>",
    )
    rows = rows_for(words)
    config = hf.Gemma4Config(
        vision_config=vision_config(
            hf.Gemma4VisionConfig, num_key_value_heads=2, head_dim=8, pooling_kernel_size=3, position_embedding_size=64
        ),
        text_config=text_config(
            hf.Gemma4TextConfig,
            rows,
            head_dim=8,
            global_head_dim=8,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention"] * 2,
            vocab_size_per_layer_input=rows,
            hidden_size_per_layer_input=8,
            use_bidirectional_attention="vision",
        ),
        audio_config=None,
        image_token_id=words.image_token_id,
        boi_token_id=words.boi_token_id,
        eoi_token_id=words.eoi_token_id,
        video_token_id=words.video_token_id,
        audio_token_id=words.audio_token_id,
        boa_token_id=words.boa_token_id,
        eoa_token_index=words.eoa_token_id,
        initializer_range=INIT,
    )
    images = Gemma4ImageProcessorPil(patch_size=PATCH, max_soft_tokens=70, pooling_kernel_size=3)
    processor = hf.Gemma4Processor(Gemma4AudioFeatureExtractor(), images, words, no_video_processor())
    return hf.Gemma4ForConditionalGeneration(config), processor
