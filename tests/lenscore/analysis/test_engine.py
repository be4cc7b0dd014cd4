"""The engine and its reading threads on errors, and with prompts of all kinds."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lenscore.analysis.engine import AnalysisEngine
from lenscore.images.image_files import ImageFile, find_images
from lenscore.images.preprocessing import BatchReader, prompt_with_image
from lenscore.lenses import LogitLens
from lenscore.models.loading import Vlm
from storage_layouts.errors import InputError

TEMPLATE = "{{ bos_token }}{% for m in messages %}{% for c in m['content'] %}<image>{% endfor %}{% endfor %}"


@pytest.fixture
def images(tmp_path: Path) -> list[tuple[int, ImageFile]]:
    for i in range(11):
        Image.new("RGB", (40 + i, 30), (i * 20, 100, 50)).save(tmp_path / f"{i:02}.png")
    return list(enumerate(find_images(tmp_path)))


def with_processor(vlm: Vlm, **changes: Any) -> Vlm:
    processor = copy.deepcopy(vlm.processor)
    for name, value in changes.items():
        setattr(processor, name, value)
    return dataclasses.replace(vlm, processor=processor)


def test_batches_come_in_order_and_keep_their_size(tiny_vlm: Vlm, images: list[tuple[int, ImageFile]]) -> None:
    batches = list(BatchReader(tiny_vlm, "", 3, threads=2).read(images))
    assert [batch.image_ids for batch in batches] == [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10)]
    assert [g.width for batch in batches for g in batch.geometries] == list(range(40, 51))
    assert batches[3].inputs
    assert batches[3].inputs["pixel_values"].shape == (2, 3, 32, 32)


def test_one_beginning_of_sequence_whoever_writes_it(tiny_vlm: Vlm, images: list[tuple[int, ImageFile]]) -> None:
    assert prompt_with_image(tiny_vlm.processor, "a dog") == "<image> a dog"
    templated = with_processor(tiny_vlm, chat_template=TEMPLATE.replace("<image>", "{{ c.text or '<image>' }}"))
    assert prompt_with_image(templated.processor, "a dog") == "<s><image>a dog"
    for vlm in (tiny_vlm, templated):
        (batch,) = BatchReader(vlm, "a dog", 3).read(images[:2])
        assert batch.inputs["input_ids"].tolist() == [[1, *[4] * 16, 5, 12]] * 2


def test_an_image_that_the_processor_refuses_harms_no_other(
    tiny_vlm: Vlm, images: list[tuple[int, ImageFile]], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = type(tiny_vlm.processor.image_processor)._preprocess

    def picky(self: Any, pixels: list[Any], **settings: Any) -> Any:
        if any(image.shape[-1] == 44 for image in pixels):
            raise ValueError("44 pixels are unlucky\nand more")
        return honest(self, pixels, **settings)

    monkeypatch.setattr(type(tiny_vlm.processor.image_processor), "_preprocess", picky)
    batches = list(BatchReader(tiny_vlm, "", 3).read(images))
    assert [batch.image_ids for batch in batches] == [(0, 1, 2), (3, 5), (6, 7, 8), (9, 10)]
    assert batches[1].unreadable == {4: "the image processor refuses it: 44 pixels are unlucky"}


def test_a_processor_that_fails_on_everything_does_not_blame_the_images(tiny_vlm: Vlm) -> None:
    with pytest.raises(InputError, match=r"--model .*: its processor cannot take a plain picture .*mean must have"):
        BatchReader(broken_processor(tiny_vlm), "", 3)


def broken_processor(vlm: Vlm) -> Vlm:
    processor = copy.deepcopy(vlm.processor)
    processor.image_processor.image_mean = [0.5, 0.5]
    return dataclasses.replace(vlm, processor=processor)


def test_states_that_are_not_finite_name_image_and_layer(
    tiny_vlm: Vlm, images: list[tuple[int, ImageFile]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(tiny_vlm.model)
    vlm = dataclasses.replace(tiny_vlm, model=model)
    with torch.no_grad():
        vlm.decoder.layers[1].mlp.down_proj.weight[3] = float("inf")
    engine = AnalysisEngine(vlm, [LogitLens.from_model(vlm)], [0, 1, 2, 3], 5, "", 4)
    with pytest.raises(ValueError, match=r"image 5: the hidden state of layer 2 at position 1 is not finite"):
        next(engine.analyze(images[5:]))
