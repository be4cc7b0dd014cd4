"""Boxes end to end: paint one cell of the original image, and see which patch of the processed pixels changes."""

from __future__ import annotations

import copy
import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from lenscore.images.geometry import family_of, image_geometry, unknown_family
from lenscore.images.geometry.grids import ImageGeometry, View
from lenscore.models.loading import Vlm
from storage_layouts.errors import InputError

PATCH = 8
SIDE = {"height": 32, "width": 32}
PROCESSORS: dict[str, Any] = {
    "squash": CLIPImageProcessorPil(size=SIDE, do_center_crop=False),
    "centre crop, as llava-1.5": CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIDE),
    "crop of a larger resize": CLIPImageProcessorPil(size={"shortest_edge": 45}, crop_size=SIDE),
    "crop pads a smaller resize": CLIPImageProcessorPil(size={"height": 21, "width": 26}, crop_size=SIDE),
    "no resize, crop or pad to 32": CLIPImageProcessorPil(do_resize=False, crop_size=SIDE),
    "pad to a square": LlavaImageProcessorPil(size=SIDE, crop_size=SIDE, do_pad=True),
    "pad behind": CLIPImageProcessorPil(
        size={"height": 24, "width": 16}, do_center_crop=False, do_pad=True, pad_size=SIDE
    ),
}
SIZES = {"square": (60, 60), "wide": (97, 41), "tall": (33, 80), "small": (9, 7)}


def geometry_of(vlm: Vlm, image: Image.Image) -> ImageGeometry:
    inputs = vlm.processor(images=[image], text=["<image> a dog"], return_tensors="pt")
    return image_geometry(vlm, inputs, [image.size])[0]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", PROCESSORS)
def test_the_painted_cell_lies_in_the_box_of_the_patch_that_changes(
    tiny_vlm: Vlm, name: str, size: tuple[int, int]
) -> None:
    vlm = dataclasses.replace(tiny_vlm, processor=with_image_processor(tiny_vlm, PROCESSORS[name]))
    width, height = size
    step = max(1, min(size) // 12)
    corners = [(x, y) for y in range(0, height - step + 1, step) for x in range(0, width - step + 1, step)]
    corners = random.Random(0).sample(corners, min(len(corners), 40))
    grey = Image.new("RGB", size, (128, 128, 128))
    pictures = [grey]
    for x, y in corners:
        pictures.append(grey.copy())
        pictures[-1].paste((255, 255, 255), (x, y, x + step, y + step))
    pixels = np.stack(PROCESSORS[name](pictures)["pixel_values"])
    changed = np.abs(pixels[1:] - pixels[0]).sum(axis=1).reshape(-1, 4, PATCH, 4, PATCH).sum(axis=(2, 4))
    patches = geometry_of(vlm, grey).patches
    assert len(patches) == 16
    hits = 0
    for (x, y), change in zip(corners, changed, strict=True):
        middle_x, middle_y = (x + step / 2) / width, (y + step / 2) / height
        holders = [(p.row, p.col) for p in patches if p.left <= middle_x <= p.right and p.top <= middle_y <= p.bottom]
        if holders:  # else the cell is cropped away, and only the filter reaches over the edge
            hits += 1
            assert max(change[cell] for cell in holders) >= 0.98 * change.max(), (x, y, change)
    assert hits >= 5


def with_image_processor(vlm: Vlm, image_processor: Any) -> Any:
    return type(vlm.processor)(
        image_processor=image_processor,
        tokenizer=vlm.tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def test_patches_are_row_major_at_the_image_positions(tiny_vlm: Vlm) -> None:
    images = [Image.new("RGB", (50, 30)), Image.new("RGB", (30, 50))]
    inputs = tiny_vlm.processor(images=images, text=["a dog <image> a cat"] * 2, return_tensors="pt")
    first, second = image_geometry(tiny_vlm, inputs, [image.size for image in images])
    assert [p.position for p in first.patches] == list(range(3, 19))
    assert [(p.row, p.col) for p in second.patches] == [(row, col) for row in range(4) for col in range(4)]
    assert (first.width, first.height, second.width, second.height) == (50, 30, 30, 50)
    last = first.patches[-1]
    assert (last.left, last.top, last.right, last.bottom) == (0.75, 0.75, 1.0, 1.0)


def test_a_class_token_looks_at_no_place(tiny_vlm: Vlm) -> None:
    """vision_feature_select_strategy "full" keeps it, in front of the patches."""
    model = copy.deepcopy(tiny_vlm.model)
    model.config.vision_feature_select_strategy = "full"
    processor = with_image_processor(tiny_vlm, PROCESSORS["squash"])
    processor.vision_feature_select_strategy = "full"
    vlm = dataclasses.replace(tiny_vlm, model=model, processor=processor)
    geometry = geometry_of(vlm, Image.new("RGB", (32, 32)))
    assert [p.position for p in geometry.patches] == list(range(2, 18))
    assert (geometry.patches[0].row, geometry.patches[0].right) == (0, 0.25)


def test_a_patch_of_padding_has_no_area(tiny_vlm: Vlm) -> None:
    vlm = dataclasses.replace(tiny_vlm, processor=with_image_processor(tiny_vlm, PROCESSORS["pad to a square"]))
    geometry = geometry_of(vlm, Image.new("RGB", (80, 20)))
    areas = {p.row: (p.right - p.left) * (p.bottom - p.top) for p in geometry.patches if p.col == 1}
    assert areas[0] == areas[3] == 0
    assert areas[1] == pytest.approx(0.25 * 2 / 3, abs=0.05)


def test_what_is_not_understood_is_refused(tiny_vlm: Vlm) -> None:
    config = hf.LlamaConfig()
    with pytest.raises(InputError, match=r"--model x: its configuration \('llama'\) has no image_token_id"):
        family_of(config, "x")
    odd = CLIPImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64}, crop_size=SIDE)
    with pytest.raises(InputError, match="is not supported"):
        geometry_of(
            dataclasses.replace(tiny_vlm, processor=with_image_processor(tiny_vlm, odd)), Image.new("RGB", (9, 9))
        )
    inputs = tiny_vlm.processor(images=[Image.new("RGB", (9, 9))], text=["<image>"], return_tensors="pt")
    inputs["input_ids"] = inputs["input_ids"][:, :-2]
    with pytest.raises(InputError, match=r"14 visual tokens for grids of global 4 x 4 patches \(16 tokens\)"):
        image_geometry(tiny_vlm, inputs, [(9, 9)])


@pytest.mark.parametrize("tokens", [9, 7])
def test_an_unknown_family_has_no_places_whatever_its_number_of_tokens(tiny_vlm: Vlm, tokens: int) -> None:
    model = copy.deepcopy(tiny_vlm.model)
    model.config.model_type = "somebodys_vlm"
    vlm = dataclasses.replace(tiny_vlm, model=model)
    (geometry,) = image_geometry(vlm, {"input_ids": torch.tensor([[1, *[4] * tokens, 5]])}, [(80, 20)])
    assert geometry.views == (View(0, "ungridded", 1, tokens),)
    assert [(p.position, p.row, p.col) for p in geometry.patches] == [(1 + n, 0, n) for n in range(tokens)]
    assert {(p.left, p.top, p.right, p.bottom) for p in geometry.patches} == {(0, 0, 1, 1)}
    assert unknown_family(model.config) == "somebodys_vlm"
    assert unknown_family(tiny_vlm.model.config) is None


def test_images_by_cross_attention_are_refused() -> None:
    """Their configurations have an image token, but its state is that of a word."""
    for config in (hf.MllamaConfig(), hf.Florence2Config(), hf.T5Gemma2Config()):
        assert config.image_token_id is not None
        with pytest.raises(InputError, match="--model x: its language model reads images by cross attention"):
            family_of(config, "x")
