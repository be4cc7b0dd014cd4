"""The geometry of every family against the model itself: paint a cell, and see which visual tokens change.

Attention in the vision encoder is silenced, so a visual token knows no more than the pixels of its own patches. All
else is the real model: its patches, tiles, pooling, pixel shuffle, newlines and unpadding, on the real processor's
output. What changes in the input of the first block says where a token looks.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from PIL import Image
from torch import Tensor, nn

from lenscore.analysis.engine import AnalysisEngine
from lenscore.images.geometry import image_geometry, visual_tokens
from lenscore.images.geometry.grids import ImageGeometry, Patch
from lenscore.images.image_files import UnreadableImageError, find_images
from lenscore.images.preprocessing import BatchReader, prompt_with_image
from lenscore.models.loading import Vlm, load_vlm
from tests.families import BUILDERS, OWN_PLACES, save_family

SIZES = {"square": (60, 60), "wide": (130, 41), "tall": (33, 80), "large": (300, 210), "small": (40, 48)}
PAINTED = 16
ATTENTION_OUTPUTS = ("out_proj", "o_proj", "proj", "projection_layer")


def with_images(vlm: Vlm, **settings: Any) -> Vlm:
    """The model with other defaults for its images than the family's own."""
    vlm.processor.images_kwargs = {**type(vlm.processor).images_kwargs, **settings}
    return vlm


PAN_AND_SCAN = {
    "do_pan_and_scan": True,
    "pan_and_scan_min_crop_size": 16,
    "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in BUILDERS},
    "gemma3, pan and scan": ("gemma3", PAN_AND_SCAN),
    "internvl, one tile": ("internvl", {"crop_to_patches": False}),
    "idefics3, no splitting": ("idefics3", {"do_image_splitting": False}),
}


CASES = [
    pytest.param(name, size, id=f"{name}-{size}")
    for name, (family, _) in VARIANTS.items()
    for size in (SIZES if family in OWN_PLACES else ("wide", "large"))
]


@pytest.fixture(scope="module")
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    """One family after another, with silent attention in its vision encoder."""
    family, settings = VARIANTS[request.param]
    loaded = load_vlm(save_family(family, tmp_path_factory.mktemp("family") / family), "cpu")
    silenced, text = 0, set(loaded.decoder.module.modules())
    for name, module in loaded.model.named_modules():
        # Molmo2 pools with attention, which sees no more than the patches that it pools. LFM3-VL has convolutions too.
        mixes = "Attention" in type(module).__name__ or "VisionShortConv" in type(module).__name__
        if mixes and module not in text and "pooling" not in name:
            for output in (getattr(module, part, None) for part in ATTENTION_OUTPUTS):
                if isinstance(output, nn.Module):
                    silenced += 1
                    for weight in output.parameters():
                        nn.init.zeros_(weight)
    assert silenced == (3 if hasattr(loaded.model.config.vision_config, "deepstack_visual_indexes") else 2)  # a block
    return with_images(loaded, **settings) if settings else loaded


def first_states(vlm: Vlm, pictures: list[Image.Image], folder: Path) -> tuple[ImageGeometry, Tensor]:
    """The geometry of the first picture, and the input of block 0 at the patches of all: [pictures, patches, dim]."""
    for i, picture in enumerate(pictures):
        picture.save(folder / f"{i:03}.png")
    engine = AnalysisEngine(vlm, [], [0], 1, "a dog", len(pictures))
    (batch,) = BatchReader(vlm, "a dog", len(pictures)).read(list(enumerate(find_images(folder))))
    assert len(set(batch.geometries)) == 1
    states = engine.visual_states(batch)[0].double()
    return batch.geometries[0], states.reshape(len(pictures), -1, states.shape[-1])


@pytest.mark.parametrize(("vlm", "name"), CASES, indirect=["vlm"])
def test_what_changes_is_where_it_was_painted(vlm: Vlm, name: str, tmp_path: Path) -> None:
    size = SIZES[name]
    grey = Image.new("RGB", size, (120, 130, 140))
    geometry, _ = first_states(vlm, [grey], tmp_path)
    large = [i for i, patch in enumerate(geometry.patches) if inner(patch, size) is not None]
    painted = random.Random(str(size)).sample(large, min(len(large), PAINTED))
    pictures = [grey]
    for i in painted:
        cell = inner(geometry.patches[i], size)
        assert cell is not None
        pictures.append(grey.copy())
        pictures[-1].paste((255, 0, 40), cell)
    geometry, states = first_states(vlm, pictures, tmp_path)
    changes = (states[1:] - states[0]).norm(dim=-1)
    # OneVision also resizes the grid of features, if it is large.
    reach = 1.0 if vlm.model.config.model_type == "llava_onevision" else 0.4
    for i, change in zip(painted, changes, strict=True):
        cell = inner(geometry.patches[i], size)
        assert cell is not None
        view = [n for n, patch in enumerate(geometry.patches) if patch.view == geometry.patches[i].view]
        assert change[i] == change[view].max() > 0, (geometry.patches[i], cell, change)
        for other, patch in enumerate(geometry.patches):
            if far(patch, size, cell, reach):
                assert change[other] <= 1e-4 * change.max(), (cell, patch, change[other], change.max())
    assert len(painted) >= 4 or len(painted) == len(geometry.patches)


def box(patch: Patch, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """left, top, right, bottom in pixels of the original."""
    width, height = size
    return patch.left * width, patch.top * height, patch.right * width, patch.bottom * height


def inner(patch: Patch, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The middle of a patch in whole pixels; None for those so small that the resizing filters smear them."""
    left, top, right, bottom = box(patch, size)
    if right - left < 5 or bottom - top < 5:
        return None
    cell = [
        left + (right - left) / 4,
        top + (bottom - top) / 4,
        right - (right - left) / 4,
        bottom - (bottom - top) / 4,
    ]
    return round(cell[0]), round(cell[1]), round(cell[2]), round(cell[3])


def far(patch: Patch, size: tuple[int, int], painted: tuple[int, int, int, int], share: float) -> bool:
    """Farther than the resizing filters reach: some pixels, or a share of a patch."""
    left, top, right, bottom = box(patch, size)
    reach_x, reach_y = max(3, share * (right - left)), max(3, share * (bottom - top))
    return (
        painted[2] < left - reach_x
        or painted[0] > right + reach_x
        or painted[3] < top - reach_y
        or painted[1] > bottom + reach_y
    )


def test_a_very_thin_image_is_stretched_where_its_processor_does_so(tmp_path: Path) -> None:
    """200 x 6 pixels become 32 x 4, not 32 x 1, and lie in the middle of 32 rows."""
    vlm = load_vlm(save_family("deepseek_vl", tmp_path / "model"), "cpu")
    (geometry,) = BatchReader(vlm, "a dog", 1).batch_of({0: Image.new("RGB", (200, 6))}).geometries
    rows = [(patch.top, patch.bottom) for patch in geometry.patches if patch.col == 0]
    assert rows == [(0, 0), (0, 0.5), (0.5, 1), (1, 1)]


@pytest.mark.parametrize("family", ["mistral3", "mistral_large4"])
def test_an_image_of_one_token_is_unreadable_where_the_model_fails_on_it(
    family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    vlm = load_vlm(save_family(family, tmp_path_factory.mktemp("family") / family), "cpu")
    batch = BatchReader(vlm, "a dog", 1).batch_of({0: Image.new("RGB", (1, 1))})
    assert batch.unreadable == {0: "too small: 16 x 16 pixels are one visual token, expected two or more"}


@pytest.mark.parametrize("family", OWN_PLACES)
def test_a_batch_of_several_sizes_has_the_places_of_each_alone(
    family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    vlm = load_vlm(save_family(family, tmp_path_factory.mktemp("family") / family), "cpu")
    reader = BatchReader(vlm, "a dog", 3)
    pictures = [Image.new("RGB", SIZES[name]) for name in ("large", "small", "wide")]
    together = reader.batch_of(dict(enumerate(pictures))).geometries
    alone = [reader.batch_of({0: picture}).geometries[0] for picture in pictures]
    for of_batch, single in zip(together, alone, strict=True):
        assert of_batch == single


@pytest.mark.parametrize("family", OWN_PLACES)
def test_every_size_has_one_place_for_each_visual_token(family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    vlm = load_vlm(save_family(family, tmp_path_factory.mktemp("family") / family), "cpu")
    text = prompt_with_image(vlm.processor, "a dog")
    # These processors refuse strips that they would resize to nothing, or to more patches than they allow.
    steepest = {"mistral3": 40, "pixtral": 40, "lfm2_vl": 20}.get(family, 150)

    @hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
    @hypothesis.given(width=st.integers(2, 400), height=st.integers(2, 400))
    def check(width: int, height: int) -> None:
        hypothesis.assume(max(width, height) <= steepest * min(width, height))
        images = [[Image.new("RGB", (width, height))]]
        inputs = vlm.processor(images=images, text=[text], return_tensors="pt")
        try:
            (geometry,) = image_geometry(vlm, inputs, [(width, height)])
        except UnreadableImageError:
            # LLaVA's tiles leave no column, or no row, of a thin picture.
            assert family == "mistral3" or ("llava" in family and max(width, height) > 8 * min(width, height))
            return
        tokens = visual_tokens(vlm, inputs["input_ids"])[0].nonzero().flatten().tolist()
        positions = [patch.position for patch in geometry.patches]
        assert positions == sorted(set(positions))
        assert set(positions) <= set(tokens)
        newlines = sum(view.rows for view in geometry.views if view.name == "tiles" and "llava" in family)
        assert len(tokens) == len(positions) + newlines
        for view in geometry.views:
            mine = [patch for patch in geometry.patches if patch.view == view.view]
            assert [(p.row, p.col) for p in mine] == [(r, c) for r in range(view.rows) for c in range(view.cols)]
            assert all(0 <= p.left <= p.right <= 1 and 0 <= p.top <= p.bottom <= 1 for p in mine)
        if "llava" not in family:  # these crop, cut off half cells of padding, or leave the margins of tiles unseen
            area = sum((p.right - p.left) * (p.bottom - p.top) for p in geometry.patches)
            renderings = {view.name.split()[0] for view in geometry.views}
            assert area == pytest.approx(len(renderings), abs=1e-6)

    check()
