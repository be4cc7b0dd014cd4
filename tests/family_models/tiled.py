"""Families that cut an image into tiles."""

from __future__ import annotations

import transformers as hf
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from lenscore.models.processors import no_video_processor
from tests.family_models.parts import (
    DIM,
    INIT,
    PATCH,
    SIDE,
    Built,
    rows_for,
    text_config,
    tokenizer,
    vision_config,
)
from tests.family_models.torchvision_stand_in import image_processor


def molmo2() -> Built:
    names = ("im_patch", "im_col", "im_start", "low_res_im_start", "frame_start", "im_end", "frame_end", "im_low")
    special = {f"{name}_token": f"<{name}>" for name in names}
    words = tokenizer(image_token="<|image|>", video_token="<|video|>", **special)
    rows = rows_for(words)
    config = hf.Molmo2Config(
        vision_config=vision_config(
            hf.models.molmo2.configuration_molmo2.Molmo2VisionConfig,
            image_size=[56, 56],
            num_key_value_heads=2,
            head_dim=8,
        ),
        adapter_config=hf.models.molmo2.configuration_molmo2.Molmo2AdapterConfig(
            vision_feature_layer=[1, 0],
            hidden_size=16,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=32,
            text_hidden_size=DIM,
            initializer_range=INIT,
        ),
        text_config=text_config(hf.Molmo2TextConfig, rows - 16, head_dim=8, additional_vocab_size=16),
        image_start_token_id=words.im_start_token_id,
        low_res_image_start_token_id=words.low_res_im_start_token_id,
        image_end_token_id=words.im_end_token_id,
        image_patch_id=words.im_patch_token_id,
        frame_start_token_id=words.frame_start_token_id,
        frame_end_token_id=words.frame_end_token_id,
        initializer_range=INIT,
    )
    kind = image_processor(hf.Molmo2Config, "molmo2.image_processing_molmo2", "Molmo2ImageProcessor")
    images = kind(
        size={"height": 56, "width": 56}, patch_size=PATCH, max_crops=4, overlap_margins=[1, 1], pooling_size=[2, 2]
    )
    return hf.Molmo2ForConditionalGeneration(config), hf.Molmo2Processor(images, no_video_processor(), words)


def internvl() -> Built:
    words = tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    config = hf.InternVLConfig(
        vision_config=vision_config(hf.InternVLVisionConfig, image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH]),
        text_config=text_config(hf.Qwen2Config, rows_for(words)),
        image_token_id=words.context_image_token_id,
        image_seq_length=4,
    )
    images = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_patches=6)
    return hf.InternVLForConditionalGeneration(config), hf.InternVLProcessor(
        images, words, no_video_processor(), image_seq_length=4
    )


def _tiles() -> dict[str, str]:
    return {f"tile_{i}_{j}_token": f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)}


def idefics3() -> Built:
    words = tokenizer(
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        end_of_utterance_token="<end_of_utterance>",
        global_image_token="<global-img>",
        **_tiles(),
    )
    config = hf.Idefics3Config(
        vision_config=vision_config(hf.models.idefics3.configuration_idefics3.Idefics3VisionConfig, image_size=SIDE),
        text_config=text_config(hf.LlamaConfig, rows_for(words)),
        image_token_id=words.image_token_id,
        scale_factor=2,
    )
    images = Idefics3ImageProcessorPil(size={"longest_edge": 3 * SIDE}, max_image_size={"longest_edge": SIDE})
    return hf.Idefics3ForConditionalGeneration(config), hf.Idefics3Processor(images, words, image_seq_len=4)


def smolvlm() -> Built:
    words = tokenizer(
        image_token="<image>",
        video_token="<video>",
        fake_image_token="<fake_token_around_image>",
        end_of_utterance_token="<end_of_utterance>",
        global_image_token="<global-img>",
        **_tiles(),
    )
    config = hf.SmolVLMConfig(
        vision_config=vision_config(hf.SmolVLMVisionConfig, image_size=SIDE),
        text_config=text_config(hf.LlamaConfig, rows_for(words)),
        image_token_id=words.image_token_id,
        scale_factor=2,
    )
    images = SmolVLMImageProcessorPil(size={"longest_edge": 3 * SIDE}, max_image_size={"longest_edge": SIDE})
    return hf.SmolVLMForConditionalGeneration(config), hf.SmolVLMProcessor(
        images, words, no_video_processor(), image_seq_len=4
    )


def aya_vision() -> Built:
    words = tokenizer(
        image_token="<image>",
        img_patch_token="<|IMG_PATCH|>",
        start_of_img_token="<|START_OF_IMG|>",
        end_of_img_token="<|END_OF_IMG|>",
        tile_global_token="TILE_GLOBAL",
        **{f"tile_{n}_token": f"TILE_{n}" for n in range(1, 7)},
    )
    config = hf.AyaVisionConfig(
        vision_config=vision_config(hf.SiglipVisionConfig, image_size=SIDE, vision_use_head=False),
        text_config=text_config(hf.Cohere2Config, rows_for(words), head_dim=8, sliding_window=16),
        image_token_index=words.img_patch_token_id,
    )
    images = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_patches=6)
    processor = hf.AyaVisionProcessor(images, words, patch_size=PATCH, img_size=SIDE, downsample_factor=2)
    return hf.AyaVisionForConditionalGeneration(config), processor


def cohere2_vision() -> Built:
    words = tokenizer(
        image_token="<|IMG_PATCH|>",
        boi_token="<|START_OF_IMG|>",
        eoi_token="<|END_OF_IMG|>",
        img_line_break_token="<|IMG_LINE_BREAK|>",
    )
    config = hf.Cohere2VisionConfig(
        vision_config=vision_config(hf.SiglipVisionConfig, image_size=SIDE, vision_use_head=False),
        text_config=text_config(hf.Cohere2Config, rows_for(words), head_dim=8, sliding_window=16),
        image_token_id=words.image_token_id,
        alignment_intermediate_size=64,
    )
    kind = image_processor(
        hf.Cohere2VisionConfig, "cohere2_vision.image_processing_cohere2_vision", "Cohere2VisionImageProcessor"
    )
    images = kind(size={"height": SIDE, "width": SIDE}, max_patches=6, patch_size=2)
    return hf.Cohere2VisionForConditionalGeneration(config), hf.Cohere2VisionProcessor(images, words)


def llama4() -> Built:
    words = tokenizer(
        image_token="<|image|>",
        patch_token="<|patch|>",
        start_of_image_token="<|image_start|>",
        end_of_image_token="<|image_end|>",
        tile_x_separator_token="<|tile_x_separator|>",
        tile_y_separator_token="<|tile_y_separator|>",
    )
    config = hf.Llama4Config(
        vision_config=vision_config(
            hf.models.llama4.configuration_llama4.Llama4VisionConfig,
            image_size=SIDE,
            hidden_size=16,
            intermediate_size=64,
            vision_output_dim=16,
            projector_input_dim=16,
            projector_output_dim=16,
            initializer_range=0.1,
        ),
        text_config=text_config(
            hf.models.llama4.configuration_llama4.Llama4TextConfig,
            rows_for(words),
            head_dim=8,
            intermediate_size_mlp=64,
            num_local_experts=2,
        ),
        boi_token_index=words.start_of_image_token_id,
        eoi_token_index=words.end_of_image_token_id,
        image_token_index=words.patch_token_id,
    )
    kind = image_processor(hf.Llama4Config, "llama4.image_processing_llama4", "Llama4ImageProcessor")
    images = kind(size={"height": SIDE, "width": SIDE}, max_patches=6)
    processor = hf.Llama4Processor(images, words, patch_size=PATCH, chat_template=None)
    return hf.Llama4ForConditionalGeneration(config), processor


def lfm2_vl() -> Built:
    words = tokenizer(
        image_token="<image>",
        image_start_token="<|image_start|>",
        image_end_token="<|image_end|>",
        image_thumbnail_token="<|img_thumbnail|>",
        **{f"tile_{i}_{j}_token": f"<|img_row_{i}_col_{j}|>" for i in range(1, 5) for j in range(1, 5)},
    )
    config = hf.Lfm2VlConfig(
        vision_config=vision_config(hf.Siglip2VisionConfig, num_patches=16, vision_use_head=False),
        text_config=text_config(
            hf.Lfm2Config, rows_for(words), layer_types=["conv", "full_attention", "conv", "full_attention"]
        ),
        image_token_id=words.image_token_id,
        projector_hidden_size=DIM,
    )
    kind = image_processor(hf.Lfm2VlConfig, "lfm2_vl.image_processing_lfm2_vl", "Lfm2VlImageProcessor")
    images = kind(
        encoder_patch_size=PATCH,
        tile_size=SIDE,
        max_tiles=4,
        min_image_tokens=2,
        max_image_tokens=32,
        max_pixels_tolerance=0.25,
    )
    return hf.Lfm2VlForConditionalGeneration(config), hf.Lfm2VlProcessor(images, words)


def ovis2() -> Built:
    names = ("START", "GRID", "COL", "ROW", "END")
    words = tokenizer(
        image_token="<IMG_ATOM>", placeholder_token="<image>", **{f"{name}_token": f"<IMG_{name}>" for name in names}
    )
    rows = rows_for(words)
    config = hf.Ovis2Config(
        vision_config=vision_config(dict, image_size=SIDE, vocab_size=40, hidden_stride=2),
        text_config=text_config(hf.Qwen2Config, rows),
        image_token_id=words.image_token_id,
        visual_indicator_token_ids=words.convert_tokens_to_ids([f"<IMG_{name}>" for name in names]),
        vocab_size=rows,
        hidden_size=DIM,
    )
    images = Ovis2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, crop_to_patches=True, max_patches=6)
    processor = hf.Ovis2Processor(images, words, image_seq_length=4, image_token="<image>")
    return hf.Ovis2ForConditionalGeneration(config), processor
