"""Texts, tokenizer and the three training stages, in tiny sizes."""

import os
import subprocess
import sys

import pytest
import torch

from lenscore.shapes import corpus_path
from lenscore.shapes.chance import generator
from lenscore.shapes.connector import (
    ConnectorPlan,
    assemble,
    new_processor,
    pil_image_processor,
    train_connector,
)
from lenscore.shapes.documents import corpus_lines, document
from lenscore.shapes.grammar import PROMPT, caption
from lenscore.shapes.language_model import LanguageModelPlan, new_language_model, train_language_model
from lenscore.shapes.muon import orthogonalise
from lenscore.shapes.scenes import sample_scene
from lenscore.shapes.tokenizer import train_tokenizer
from lenscore.shapes.unrelated import unrelated_sentence
from lenscore.shapes.vision_encoder import VisionPlan, new_vision_encoder, train_vision_encoder
from lenscore.shapes.vocabulary import BACKGROUND_WORDS, COLOURS, NOUNS, SIZES, TEXTURES


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(seed=7, documents=300)


def scene_words():
    return {
        *BACKGROUND_WORDS,
        *(word for noun in NOUNS.values() for word in noun.words),
        *(word for colour in COLOURS.values() for word in colour.words),
        *(word for words in TEXTURES.values() for word in words),
        *(word for size in SIZES.values() for word in size.words),
    }


def test_every_word_has_tokens_and_comes_back(tokenizer):
    rng = generator("unrelated words")
    unrelated = {word.strip(".,?") for _ in range(3000) for word in unrelated_sentence(rng).split()}
    assert len(unrelated) == 217
    texts = [*scene_words(), *unrelated, "Describe: a RED star, please!"]
    for index in range(300):
        segments = document(sample_scene("test", index), generator("tokenizer test", index))
        texts.append(" ".join(segment.text for segment in segments))
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text.lower()


def test_corpus_is_reproducible_and_holds_no_test_caption():
    lines = corpus_path().read_text(encoding="utf-8").splitlines()
    assert 10_000 <= len(lines) <= 20_000
    assert len(set(lines)) == len(lines)
    assert lines[:200] == corpus_lines(200, seed=4)
    known = set(lines)
    for index in range(500):
        assert caption(sample_scene("test", index), generator("held out", index)) not in known


def test_orthogonalise_keeps_directions():
    """Muon's update shares the singular vectors of its input and has singular values near 1."""
    matrices = torch.randn(3, 20, 12, generator=torch.Generator().manual_seed(0))
    result = orthogonalise(matrices)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    inner = u.mT @ result @ v.mT
    diagonal = torch.diagonal(inner, dim1=1, dim2=2)
    assert diagonal.min() > 0.3
    assert diagonal.max() < 1.4
    torch.testing.assert_close(inner, torch.diag_embed(diagonal), atol=1e-3, rtol=0)


def test_every_stage_learns_and_repeats(tokenizer):
    language_plan = LanguageModelPlan(hidden=32, layers=2, head_size=16, steps=16, batch=4)
    vision_plan = VisionPlan(hidden=32, layers=1, head_size=16, scenes=24, steps=12, batch=8)
    connector_plan = ConnectorPlan(scenes=12, steps=16, batch=4)
    runs = []
    for _ in range(2):
        language_model = new_language_model(tokenizer, language_plan, seed=1)
        language_losses = train_language_model(language_model, tokenizer, language_plan, seed=1)
        vision_encoder = new_vision_encoder(vision_plan, seed=2)
        vision_losses = train_vision_encoder(vision_encoder, vision_plan, seed=2)
        model = assemble(language_model, vision_encoder, tokenizer, seed=3)
        frozen = {name: value.clone() for name, value in model.named_parameters() if "projector" not in name}
        connector_losses = train_connector(model, tokenizer, connector_plan, seed=3)
        for losses in (language_losses, vision_losses, connector_losses):
            assert sum(losses[-4:]) < sum(losses[:4])
        for name, value in model.named_parameters():
            if name in frozen:
                assert torch.equal(value, frozen[name])
        runs.append((language_losses, vision_losses, connector_losses))
    assert runs[0] == runs[1]


def test_import_is_light():
    """Listing or judging images needs no torch."""
    code = "import sys, lenscore.shapes; print('torch' in sys.modules or 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == "False"


def test_prompt_is_what_the_chat_template_writes(tokenizer):
    processor = new_processor(tokenizer, pil_image_processor())
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]
    assert processor.apply_chat_template(messages) == f"<image> {PROMPT}"
