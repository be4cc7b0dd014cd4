"""The shipped weights: a plain Llava that sees held-out scenes, loaded without network or torchvision."""

import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from lenscore.shapes import corpus_path, model_path
from lenscore.shapes.measures import caption_recall


@pytest.fixture(scope="module")
def shipped():
    model = AutoModelForImageTextToText.from_pretrained(model_path()).eval()
    return model, AutoProcessor.from_pretrained(model_path())


def test_is_a_plain_llava_and_small(shipped):
    model, processor = shipped
    assert type(model) is LlavaForConditionalGeneration
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.image_token_index == processor.tokenizer.convert_tokens_to_ids("<image>")
    shipped_bytes = sum(file.stat().st_size for file in model_path().iterdir()) + corpus_path().stat().st_size
    assert shipped_bytes < 10_000_000


def test_names_what_is_in_new_scenes(shipped):
    """Chance is below one object in ten: a caption names at most three of twenty nouns."""
    recall = caption_recall(*shipped, count=40)
    assert recall["noun"] > 0.6
    assert recall["colour"] > 0.6


def test_loads_without_network_and_torchvision():
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from transformers import AutoModelForImageTextToText as M, AutoProcessor as P\n"
        "from lenscore.shapes import model_path\n"
        "P.from_pretrained(model_path()); M.from_pretrained(model_path())"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": os.devnull}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
