"""The answer of every family is what its own forward pass says next, and the image stays what it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lenscore import load_vlm
from lenscore.analysis.engine import AnalysisEngine
from lenscore.images.preprocessing import BatchReader
from lenscore.lenses import LogitLens
from lenscore.models.greedy_answer import followed_by, placeholders
from tests.families import FAMILIES, save_family

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 70, 3), dtype=np.uint8))
PROMPT = "the red dog"


@pytest.mark.parametrize("family", FAMILIES)
def test_each_token_is_the_likeliest_after_those_before(family: str, tmp_path: Path) -> None:
    vlm = load_vlm(save_family(family, tmp_path / family), "cpu", torch.float32)
    lens = LogitLens.from_model(vlm)

    def analysed(*tokens: str) -> AnalysisEngine:
        return AnalysisEngine(vlm, [lens], [0, 1], 3, PROMPT, 1, 1, tokens, 4)

    plain = analysed("image").analyze_picture(PICTURE)
    found = analysed("image", "text", "generated").analyze_picture(PICTURE)
    texts = found.texts
    assert texts is not None
    answer = texts.token_ids[texts.is_answer]
    assert 0 < len(answer) <= 4
    inputs = BatchReader(vlm, PROMPT, 1, threads=1).batch_of({0: PICTURE}).on_device(vlm)
    length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        logits = vlm.model(**followed_by(vlm.model, inputs, torch.from_numpy(answer).long())).logits[0]
    never = placeholders(vlm.model.config)
    assert vlm.model.config.image_token_id in never
    logits[:, [token for token in never if token < logits.shape[1]]] = -torch.inf  # there is no image for them
    assert logits[length - 1 : length - 1 + len(answer)].argmax(-1).tolist() == answer.tolist()
    assert texts.positions[texts.is_answer].tolist() == list(range(length, length + len(answer)))
    assert torch.equal(found.lenses.tops["logit"].ids, plain.lenses.tops["logit"].ids)
    assert torch.allclose(found.norms, plain.norms, rtol=1e-5)  # no patch sees the answer


def test_only_what_stands_for_images_is_never_said() -> None:
    class Config:
        def to_dict(self) -> dict[str, object]:
            ids = {
                "image_token_id": 7,
                "video_token_id": None,
                "boi_token_index": 3,
                "visual_indicator_token_ids": [9, 8],
            }
            return ids | {"eos_token_id": 2, "image_size": 224, "vision_start_token_id": 5, "image_token_index": -1}

    assert placeholders(Config()) == [3, 5, 7, 8, 9]
