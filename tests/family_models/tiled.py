"""Families that cut an image into tiles: Molmo2, InternVL, Idefics3, SmolVLM."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import nn
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.molmo2.image_processing_molmo2 import Molmo2ImageProcessor
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.utils import is_torchvision_available

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


class Molmo2ImageProcessorPil(Molmo2ImageProcessor):
    """Molmo2's own image processor, with torch for the two pixel operations that it takes from torchvision."""

    def resize(self, image: torch.Tensor, size: Any, antialias: bool = True, **_: Any) -> torch.Tensor:
        shape = (size.height, size.width)
        return nn.functional.interpolate(image, shape, mode="bilinear", antialias=antialias)

    def normalize(self, image: torch.Tensor, mean: Any, std: Any, **_: Any) -> torch.Tensor:
        mean, std = (torch.as_tensor(value, dtype=image.dtype).reshape(-1, 1, 1) for value in (mean, std))
        return (image - mean) / std


if not is_torchvision_available():
    hf.AutoImageProcessor.register(
        hf.Molmo2Config, image_processor_classes={"pil": Molmo2ImageProcessorPil, "torchvision": None}, exist_ok=True
    )


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
    kind = Molmo2ImageProcessor if is_torchvision_available() else Molmo2ImageProcessorPil
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
