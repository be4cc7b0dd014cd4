"""Families whose processor returns the grid of patches as Qwen-VL's does, with vision encoders of their own."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import transformers as hf
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lenscore.models.processors import no_video_processor
from tests.family_models.parts import DIM, HEADS, INIT, PATCH, QWEN_VISION, Built, rows_for, text_config, tokenizer
from tests.family_models.torchvision_stand_in import image_processor

_WORDS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_QWEN3 = {
    **QWEN_VISION,
    "out_hidden_size": DIM,
    "depth": 3,
    "num_position_embeddings": 36,
    "deepstack_visual_indexes": [0, 1],
}
_SIGLIP = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_WINDOWS = {**QWEN_VISION, "out_hidden_size": DIM, "window_size": 4 * PATCH, "fullatt_block_indexes": [1]}
_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
_SIZE = {"patch_size": PATCH, "merge_size": 2, "size": {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}}


def _pil(module: str, name: str, **more: Any) -> Any:
    return getattr(import_module(f"transformers.models.{module}"), name)(**{**_SIZE, **more})


def _built(
    kind: str,
    vision: dict[str, Any],
    text: dict[str, Any],
    images: Any = None,
    words: dict[str, str] = _WORDS,
    processor: str = "",
    model: str = "",
    **top: Any,
) -> Built:
    """`kind` is the beginning of the names of the family's classes, `top` what its configuration has of its own."""
    made = tokenizer(**words)
    known = getattr(hf, f"{kind}Config")
    ids = {
        f"{name}_{end}": getattr(made, f"{name}_id")
        for name in words
        for end in ("id", "index")
        if hasattr(known, f"{name}_{end}")
    }
    config = known(
        vision_config={"patch_size": PATCH, "initializer_range": INIT, **vision},
        text_config=text_config(dict, rows_for(made), **text),
        **ids,
        **top,
    )
    videos = no_video_processor()
    videos.font = ""  # Ernie saves its file
    parts = {
        "image_processor": images or Qwen2VLImageProcessorPil(**_SIZE),
        "tokenizer": made,
        "video_processor": videos,
    }
    of_images = getattr(hf, processor or f"{kind}Processor")
    return (
        getattr(hf, model or f"{kind}ForConditionalGeneration")(config),
        of_images(**{name: parts[name] for name in of_images.get_attributes()}),
    )


def exaone4_5() -> Built:
    vision = {**_WINDOWS, "num_key_value_heads": 1}
    return _built("Exaone4_5_", vision, {"model_type": "exaone4", "sliding_window": 16})


def hyperclovax_vision_v2() -> Built:
    vision = {**_WINDOWS, "model_type": "qwen2_5_vl_vision"}
    return _built("HyperCLOVAXVisionV2", vision, {"model_type": "hyperclovax", "head_dim": 8})


def cosmos3_omni() -> Built:
    text = {"model_type": "qwen3_vl_text", "head_dim": 8, "rope_parameters": {**_MROPE, "mrope_section": [2, 1, 1]}}
    return _built("Cosmos3Omni", {**_QWEN3, "model_type": "qwen3_vl_vision"}, text, processor="Qwen3VLProcessor")


def cohere_compass() -> Built:
    kinds = ("sliding_attention", "full_attention")
    text = {
        "head_dim": 8,
        "sliding_window": 16,
        "layer_types": [*kinds, *kinds],
        "rope_parameters": dict.fromkeys(kinds, _MROPE),
    }
    names = ("IMAGE_PAD", "VIDEO_PAD", "VISION_START", "VISION_END")
    words = {kind: f"<|{name}|>" for kind, name in zip(_WORDS, names, strict=True)}
    images = _pil("cohere_compass.image_processing_pil_cohere_compass", "CohereCompassImageProcessorPil")
    return _built("CohereCompass", _QWEN3, text, images, words)


def lfm3_vl() -> Built:
    kinds = ["conv", "full_attention"]
    vision = {**_SIGLIP, "num_key_value_heads": 1, "layer_types": kinds}
    text = {"model_type": "lfm3", "head_dim": 8, "layer_types": kinds * 2}
    return _built("Lfm3Vl", vision, text, projector_hidden_size=DIM)


def paddleocr_vl() -> Built:
    images = _pil("paddleocr_vl.image_processing_pil_paddleocr_vl", "PaddleOCRVLImageProcessorPil")
    text = {"head_dim": 8, "rope_parameters": _MROPE}
    return _built("PaddleOCRVL", {**_SIGLIP, "image_size": 6 * PATCH}, text, images)


def video_llama_3() -> Built:
    images = _pil("video_llama_3.image_processing_pil_video_llama_3", "VideoLlama3ImageProcessorPil", merge_size=1)
    return _built("VideoLlama3", _SIGLIP, {"model_type": "qwen2"}, images)


def ernie4_5_vl_moe() -> Built:
    text = {"moe_intermediate_size": [16, 16], "moe_num_experts": 4, "moe_k": 2, "rope_parameters": _MROPE}
    words = {
        f"{media}{part}_token": f"<|{media}{part}|>" for media in ("image", "video") for part in ("", "_start", "_end")
    }
    images = _pil("ernie4_5_vl_moe.image_processing_pil_ernie4_5_vl_moe", "Ernie4_5_VLMoeImageProcessorPil")
    return _built("Ernie4_5_VLMoe", QWEN_VISION, text, images, words)


def muse_glimmer() -> Built:
    names = ("image_start", "image_end", "video", "vid_frame_separator", "vid_start", "vid_end")
    words = {"image_token": "<|patch|>", **{f"{name}_token": f"<|{name}|>" for name in names}}
    kind = image_processor(
        hf.MuseGlimmerConfig, "muse_glimmer.image_processing_muse_glimmer", "MuseGlimmerImageProcessor"
    )
    images = kind(patch_size=PATCH, merge_size=2, max_image_tokens=36)
    vision = {**_SIGLIP, "pos_emb_height": 6, "pos_emb_width": 6}
    text = {"head_dim": 8, "sliding_window": 16}
    return _built("MuseGlimmer", vision, text, images, words, projector_hidden_size=DIM, out_hidden_size=64)


def minimax_m3_vl() -> Built:
    tags = hf.MiniMaxM3VLProcessor
    words = {
        "image_token": tags.IMAGE_TOKEN,
        "video_token": tags.VIDEO_TOKEN,
        "vision_start_token": tags.VISION_START_TOKEN,
        "vision_end_token": tags.VISION_END_TOKEN,
    }
    kind = image_processor(
        hf.MiniMaxM3VLConfig, "minimax_m3_vl.image_processing_minimax_m3_vl", "MiniMaxM3VLImageProcessor"
    )
    text = {
        "head_dim": 8,
        "rotary_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "dense_intermediate_size": 32,
        "shared_intermediate_size": 16,
        "index_n_heads": 2,
        "index_head_dim": 8,
    }
    vision, model = {**_SIGLIP, "image_size": 12 * PATCH}, "MiniMaxM3SparseForConditionalGeneration"
    return _built(
        "MiniMaxM3VL", vision, text, kind(**_SIZE), words, "MiniMaxM3VLProcessor", model, projector_hidden_size=DIM
    )


def kimi_k25() -> Built:
    text = {
        "model_type": "deepseek_v3",
        "num_key_value_heads": HEADS,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "qk_nope_head_dim": 8,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
    }
    vision = {**_SIGLIP, "pos_emb_height": 12, "pos_emb_width": 12, "merge_kernel_size": [2, 2]}
    kind = image_processor(hf.Kimi_K25Config, "kimi_k25.image_processing_kimi_k25", "Kimi_K25ImageProcessor")
    images = kind(patch_size=PATCH, merge_size=2, size={"max_height": 12, "max_width": 12}, max_patches=100)
    words = {"image_token": "<|media_pad|>", "video_token": "<|video_pad|>"}
    return _built("Kimi_K25", vision, text, images, words, projection_hidden_size=16)
