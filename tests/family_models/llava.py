"""LLaVA and its descendants, PaliGemma, DeepSeek-VL, Janus, and those with Pixtral's vision encoder."""

from __future__ import annotations

import transformers as hf
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from lenscore.models.processors import no_video_processor
from tests.family_models.parts import (
    DIM,
    HEADS,
    PATCH,
    SIDE,
    Built,
    rows_for,
    text_config,
    tokenizer,
    vision_config,
)


def llava() -> Built:
    words = tokenizer(image_token="<image>")
    config = hf.LlavaConfig(
        vision_config=vision_config(hf.CLIPVisionConfig, image_size=SIDE),
        text_config=text_config(hf.LlamaConfig, rows_for(words)),
        image_token_index=words.image_token_id,
        image_seq_length=(SIDE // PATCH) ** 2,
    )
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_center_crop=True
    )
    processor = hf.LlavaProcessor(
        images, words, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return hf.LlavaForConditionalGeneration(config), processor


PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [3 * SIDE, SIDE], [SIDE, 3 * SIDE]]


def llava_next() -> Built:
    words = tokenizer(image_token="<image>")
    config = hf.LlavaNextConfig(
        vision_config=vision_config(hf.CLIPVisionConfig, image_size=SIDE),
        text_config=text_config(hf.LlamaConfig, rows_for(words)),
        image_token_index=words.image_token_id,
        image_grid_pinpoints=PINPOINTS,
    )
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=PINPOINTS
    )
    processor = hf.LlavaNextProcessor(
        images, words, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return hf.LlavaNextForConditionalGeneration(config), processor


def llava_onevision() -> Built:
    words = tokenizer(image_token="<image>", video_token="<video>")
    side = SIDE + 4  # no whole number of patches, as in SigLIP: a few pixels behind the last one are not seen
    pinpoints = [[side * i, side * j] for i in range(1, 5) for j in range(1, 5)]
    config = hf.LlavaOnevisionConfig(
        vision_config=vision_config(hf.SiglipVisionConfig, image_size=side, vision_use_head=False),
        text_config=text_config(hf.Qwen2Config, rows_for(words)),
        image_token_index=words.image_token_id,
        video_token_index=words.video_token_id,
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_9",
    )
    images = LlavaOnevisionImageProcessorPil(size={"height": side, "width": side}, image_grid_pinpoints=pinpoints)
    processor = hf.LlavaOnevisionProcessor(
        images,
        words,
        no_video_processor(),
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
    )
    return hf.LlavaOnevisionForConditionalGeneration(config), processor


def deepseek_vl() -> Built:
    words = tokenizer(image_token="<image_placeholder>")
    config = hf.DeepseekVLConfig(
        vision_config=vision_config(dict, image_size=SIDE, vision_use_head=False),
        text_config=text_config(dict, rows_for(words)),
        image_token_id=words.image_token_id,
    )
    images = DeepseekVLImageProcessorPil(size={"height": SIDE, "width": SIDE}, min_size=4)
    processor = hf.DeepseekVLProcessor(images, words, num_image_tokens=(SIDE // PATCH) ** 2)
    return hf.DeepseekVLForConditionalGeneration(config), processor


def janus() -> Built:
    words = tokenizer(image_token="<image_placeholder>", boi_token="<begin_of_image>", eoi_token="<end_of_image>")
    count = (SIDE // PATCH) ** 2
    config = hf.JanusConfig(
        vision_config=vision_config(dict, image_size=SIDE, projection_dim=DIM, num_image_tokens=count),
        text_config=text_config(dict, rows_for(words)),
        vq_config={  # the part that makes images, which is not used
            "embed_dim": 8,
            "num_embeddings": 16,
            "latent_channels": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "projection_dim": DIM,
            "image_token_embed_dim": DIM,
            "num_hidden_layers": 2,
            "hidden_size": DIM,
        },
        image_token_id=words.image_token_id,
    )
    images = JanusImageProcessorPil(size={"height": SIDE, "width": SIDE}, min_size=4)
    processor = hf.JanusProcessor(images, words, chat_template=None)
    processor.num_image_tokens = count
    return hf.JanusForConditionalGeneration(config), processor


def paligemma() -> Built:
    words = tokenizer(image_token="<image>")
    images = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = (SIDE // PATCH) ** 2
    processor = hf.PaliGemmaProcessor(images, words)  # adds <loc0000> and so on to the tokenizer
    rows = rows_for(processor.tokenizer)
    config = hf.PaliGemmaConfig(
        vision_config=vision_config(hf.SiglipVisionConfig, image_size=SIDE, vision_use_head=False, projection_dim=DIM),
        text_config=text_config(hf.GemmaConfig, rows, head_dim=8),
        image_token_index=words.image_token_id,
        vocab_size=rows,
        projection_dim=DIM,
        hidden_size=DIM,
    )
    return hf.PaliGemmaForConditionalGeneration(config), processor


def _pixtral_words() -> hf.PreTrainedTokenizerFast:
    return tokenizer(image_token="[IMG]", image_break_token="[IMG_BREAK]", image_end_token="[IMG_END]")


def mistral3() -> Built:
    words = _pixtral_words()
    config = hf.Mistral3Config(
        vision_config=vision_config(hf.PixtralVisionConfig, image_size=96),
        text_config=text_config(hf.MistralConfig, rows_for(words)),
        image_token_index=words.image_token_id,
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    images = PixtralImageProcessorPil(size={"longest_edge": 96}, patch_size={"height": PATCH, "width": PATCH})
    processor = hf.models.pixtral.PixtralProcessor(images, words, patch_size=PATCH, spatial_merge_size=2)
    return hf.Mistral3ForConditionalGeneration(config), processor


def pixtral() -> Built:
    """LLaVA with Pixtral's vision encoder and processor: its config says "llava"."""
    words = _pixtral_words()
    config = hf.LlavaConfig(
        vision_config=vision_config(hf.PixtralVisionConfig, image_size=96),
        text_config=text_config(hf.MistralConfig, rows_for(words)),
        image_token_index=words.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    images = PixtralImageProcessorPil(size={"longest_edge": 96}, patch_size={"height": PATCH, "width": PATCH})
    return hf.LlavaForConditionalGeneration(config), hf.models.pixtral.PixtralProcessor(images, words, patch_size=PATCH)


def mistral_large4() -> Built:
    words = _pixtral_words()
    config = hf.MistralLarge4Config(
        vision_config=vision_config(hf.PixtralVisionConfig, image_size=96),
        text_config=text_config(dict, rows_for(words), model_type="mistral_large4_text", num_key_value_heads=HEADS),
        image_token_index=words.image_token_id,
        spatial_merge_size=2,
    )
    images = PixtralImageProcessorPil(size={"longest_edge": 96}, patch_size={"height": PATCH, "width": PATCH})
    processor = hf.models.pixtral.PixtralProcessor(images, words, patch_size=PATCH, spatial_merge_size=2)
    return hf.MistralLarge4ForConditionalGeneration(config), processor


def lighton_ocr() -> Built:
    words = tokenizer(image_token="<|image_pad|>", image_break_token="<|vision_pad|>", image_end_token="<|vision_end|>")
    config = hf.LightOnOcrConfig(
        vision_config=vision_config(hf.PixtralVisionConfig, image_size=96),
        text_config=text_config(hf.Qwen3Config, rows_for(words), head_dim=8),
        image_token_id=words.image_token_id,
        spatial_merge_size=2,
    )
    images = PixtralImageProcessorPil(size={"longest_edge": 96}, patch_size={"height": PATCH, "width": PATCH})
    processor = hf.LightOnOcrProcessor(images, words, patch_size=PATCH, spatial_merge_size=2)
    return hf.LightOnOcrForConditionalGeneration(config), processor
