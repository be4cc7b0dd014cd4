"""Grids with the settings of published checkpoints, with the numbers of tokens of their papers and model cards."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from lenscore.images.geometry import image_geometry
from lenscore.images.preprocessing import prompt_with_image
from lenscore.models.loading import Vlm
from tests.families import BUILDERS

Views = list[tuple[str, int, int]]


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def tiled(rows: int, cols: int, side: int) -> Views:
    """Square tiles, then the whole image."""
    return [*((f"tile {n + 1}", side, side) for n in range(rows * cols)), ("global", side, side)]


NEXT = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ONEVISION = [[384 * i, 384 * j] for i in range(1, 7) for j in range(1, 7)]

# Family: settings of the configuration, its vision encoder, the image processor, the processor; image; views.
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any], tuple[int, int], Views]] = {
    "llava": (  # llava-1.5-7b-hf
        {},
        {"image_size": 336, "patch_size": 14},
        {"size": {"shortest_edge": 336}, "crop_size": square(336)},
        {"patch_size": 14},
        (640, 480),
        [("global", 24, 24)],
    ),
    "llava_next": (  # llava-v1.6-mistral-7b-hf: 2928 tokens, of which 48 are newlines
        {"image_grid_pinpoints": NEXT},
        {"image_size": 336, "patch_size": 14},
        {"size": {"shortest_edge": 336}, "crop_size": square(336), "image_grid_pinpoints": NEXT},
        {"patch_size": 14},
        (672, 672),
        [("global", 24, 24), ("tiles", 48, 48)],
    ),
    "llava_onevision": (  # llava-onevision-qwen2-7b-ov-hf
        {"image_grid_pinpoints": ONEVISION},
        {"image_size": 384, "patch_size": 14},
        {"size": square(384), "image_grid_pinpoints": ONEVISION},
        {"num_image_tokens": 729},
        (1152, 768),
        [("global", 27, 27), ("tiles", 54, 81)],
    ),
    "qwen2_vl": (  # Qwen2-VL-7B-Instruct: a token for 28 x 28 pixels
        {},
        {"patch_size": 14},
        {"patch_size": 14, "size": {"shortest_edge": 3136, "longest_edge": 12845056}},
        {},
        (1120, 840),
        [("global", 30, 40)],
    ),
    "qwen3_vl": (  # Qwen3-VL-8B-Instruct: a token for 32 x 32 pixels
        {},
        {"patch_size": 16},
        {"patch_size": 16, "size": {"shortest_edge": 65536, "longest_edge": 16777216}},
        {},
        (1120, 832),
        [("global", 26, 35)],
    ),
    "glm4v": (  # GLM-4.1V-9B: a token for 28 x 28 pixels
        {},
        {"patch_size": 14},
        {"patch_size": 14, "size": {"shortest_edge": 12544, "longest_edge": 9633792}},
        {},
        (1120, 840),
        [("global", 30, 40)],
    ),
    "kimi_k25": (  # Kimi-K2.5: a token for 28 x 28 pixels, not enlarged, and padded
        {},
        {"patch_size": 14},
        {"patch_size": 14, "max_patches": 16384, "size": {"max_height": 512, "max_width": 512}},
        {},
        (1000, 600),
        [("global", 22, 36)],
    ),
    "molmo2": (  # Molmo2-8B: 27 x 27 patches pooled by two; 2 x 2 crops that advance 19 patches, of 8 + 2 * 19 a side
        {},
        {"image_size": [378, 378], "patch_size": 14},
        {"size": square(378), "patch_size": 14, "max_crops": 8, "overlap_margins": [4, 4]},
        {},
        (630, 630),
        [("global", 14, 14), ("tiles", 23, 23)],
    ),
    "internvl": (  # InternVL3: 256 tokens a tile
        {},
        {"image_size": [448, 448], "patch_size": [14, 14]},
        {"size": square(448), "max_patches": 12},
        {"image_seq_length": 256},
        (1344, 896),
        tiled(2, 3, 16),
    ),
    "aya_vision": (  # aya-vision-8b: 169 tokens a tile of 364 pixels
        {},
        {"image_size": 364, "patch_size": 14},
        {"size": square(364), "max_patches": 12},
        {"patch_size": 28, "img_size": 364},
        (1092, 728),
        tiled(2, 3, 13),
    ),
    "llama4": (  # Llama-4-Scout-17B-16E: 144 tokens a tile of 336 pixels
        {},
        {"image_size": 336, "patch_size": 14},
        {"size": square(336), "max_patches": 16},
        {"patch_size": 14},
        (1008, 672),
        tiled(2, 3, 12),
    ),
    "lfm2_vl": (  # LFM2-VL-1.6B: 256 tokens a tile of 512 pixels, at most 256 for the whole image
        {},
        {"patch_size": 16},
        {
            "encoder_patch_size": 16,
            "tile_size": 512,
            "max_tiles": 10,
            "min_image_tokens": 64,
            "max_image_tokens": 256,
            "max_pixels_tolerance": 2.0,
        },
        {},
        (1000, 3000),
        [*((f"tile {n + 1}", 16, 16) for n in range(3)), ("global", 27, 9)],
    ),
    "gemma3": (  # gemma-3-4b-it: 256 tokens an image
        {"mm_tokens_per_image": 256},
        {"image_size": 896, "patch_size": 14},
        {"size": square(896)},
        {"full_image_sequence": "<start_of_image>" + "<image_soft_token>" * 256 + "<end_of_image>"},
        (640, 480),
        [("global", 16, 16)],
    ),
    "gemma4": (  # at most 280 tokens of 48 x 48 pixels
        {},
        {"patch_size": 16},
        {"patch_size": 16, "max_soft_tokens": 280},
        {},
        (800, 600),
        [("global", 14, 19)],
    ),
    "paligemma": (  # paligemma2-3b-pt-224: 256 tokens an image
        {},
        {"image_size": 224, "patch_size": 14},
        {"size": square(224)},
        {"image_seq_length": 256},
        (640, 480),
        [("global", 16, 16)],
    ),
    "idefics3": (  # Idefics3-8B-Llama3: 169 tokens a tile of 364 pixels
        {"scale_factor": 2},
        {"image_size": 364, "patch_size": 14},
        {"size": {"longest_edge": 1456}, "max_image_size": {"longest_edge": 364}},
        {"image_seq_len": 169},
        (800, 600),
        tiled(3, 4, 13),
    ),
    "smolvlm": (  # SmolVLM2-2.2B-Instruct: 81 tokens a tile of 384 pixels
        {"scale_factor": 3},
        {"image_size": 384, "patch_size": 14},
        {"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 384}},
        {"image_seq_len": 81},
        (800, 600),
        tiled(3, 4, 9),
    ),
    "mistral3": (  # Mistral-Small-3.1-24B: a token for 28 x 28 pixels
        {"spatial_merge_size": 2},
        {"patch_size": 14},
        {"size": {"longest_edge": 1540}, "patch_size": square(14)},
        {"patch_size": 14, "spatial_merge_size": 2},
        (1540, 1120),
        [("global", 40, 55)],
    ),
    "pixtral": (  # pixtral-12b: a token for 16 x 16 pixels
        {},
        {"patch_size": 16},
        {"size": {"longest_edge": 1024}, "patch_size": square(16)},
        {"patch_size": 16},
        (2048, 1536),
        [("global", 48, 64)],
    ),
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_published_settings_give_the_published_grid(family: str) -> None:
    of_config, of_vision, of_images, of_processor, size, views = PUBLISHED[family]
    model, processor = BUILDERS[family]()
    parts = (model.config, model.config.vision_config, processor.image_processor, processor)
    for part, settings in zip(parts, (of_config, of_vision, of_images, of_processor), strict=True):
        for name, value in settings.items():
            setattr(part, name, value)
    vlm = Vlm(family, model, processor.tokenizer, processor)
    inputs = processor(
        images=[[Image.new("RGB", size)]], text=[prompt_with_image(processor, "a dog")], return_tensors="pt"
    )
    (geometry,) = image_geometry(vlm, inputs, [size])
    assert [(view.name, view.rows, view.cols) for view in geometry.views] == views
