"""Tuned Lens and its files against the tuned-lens package; see tests/tuned_lens_package/make.py."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import lenscore
from lenscore.index.topk import NO_CONTEXTUAL_LAYER
from lenscore.lenses import LogitLens, TunedLens
from lenscore.models.loading import LanguageModel
from storage_layouts.errors import InputError
from storage_layouts.tuned_lens import TunedLensFiles, unembed_hash
from tests.conftest import WORDS, make_llama, make_tokenizer

PACKAGE = Path(__file__).parents[2] / "tuned_lens_package"


@pytest.fixture
def exchange() -> dict[str, torch.Tensor]:
    return load_file(PACKAGE / "logits.safetensors")


@pytest.fixture
def llm(exchange: dict[str, torch.Tensor]) -> LanguageModel:
    model = make_llama()
    model.lm_head.weight.data, model.model.norm.weight.data = exchange["head"], exchange["norm"]
    return LanguageModel("tiny", model, make_tokenizer())


def test_the_packages_files_give_the_packages_logits(exchange: dict[str, torch.Tensor], llm: LanguageModel) -> None:
    lens = TunedLens.from_files(llm, TunedLensFiles.open(PACKAGE))
    translated = lens.translated(exchange["states"], range(4))
    logits = torch.stack([LogitLens.from_model(llm).logits(states) for states in translated])
    torch.testing.assert_close(logits, exchange["logits"], rtol=1e-5, atol=1e-5)
    top = lens.top(exchange["states"], range(4), 2)
    torch.testing.assert_close(top.scores, logits[..., 5 : 5 + len(WORDS)].topk(2).values, rtol=1e-5, atol=1e-5)


def test_written_files_hold_what_the_packages_hold(tmp_path: Path) -> None:
    TunedLensFiles.open(PACKAGE).write_folder(tmp_path)
    ours, theirs = (torch.load(folder / "params.pt", weights_only=True) for folder in (tmp_path, PACKAGE))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert TunedLensFiles.open(tmp_path).config == TunedLensFiles.open(PACKAGE).config


@pytest.mark.parametrize("added", [0, 3])
def test_a_head_with_added_tokens_is_the_same_head(llm: LanguageModel, added: int, tmp_path: Path) -> None:
    """As that of a VLM; but not one with other rows."""
    head = llm.model.lm_head
    more = torch.randn(added, 32)
    head.weight = torch.nn.Parameter(torch.cat([head.weight, more]))
    TunedLens.from_files(llm, TunedLensFiles.open(PACKAGE))
    head.weight.data[0] = 1
    with pytest.raises(InputError, match="with an LM head of hash"):
        TunedLens.from_files(llm, TunedLensFiles.open(PACKAGE))


@pytest.mark.parametrize("shape", [(20, 20), (400, 7), (3000, 2), (64, 900)])
def test_the_hash_of_a_head_needs_only_its_corners(shape: tuple[int, int]) -> None:
    head = torch.randn(shape)
    text = np.array_str(head.numpy(), precision=1)  # tuned_lens/utils.py: tensor_hash
    assert unembed_hash(head) == hashlib.sha256(text.encode()).hexdigest()
    assert unembed_hash(torch.cat([head, head]), shape[0]) == unembed_hash(head)
    with np.printoptions(edgeitems=4, suppress=True, linewidth=200, threshold=10):  # of a notebook
        assert unembed_hash(head) == hashlib.sha256(text.encode()).hexdigest()


def test_it_scores_words_and_reads_texts(llm: LanguageModel) -> None:
    lens, states = TunedLens.from_files(llm, TunedLensFiles.open(PACKAGE)), torch.randn(2, 5, 32)
    top = lens.top(states, [0, 3], 1)
    found = lens.score_words(states, [0, 3], [{NO_CONTEXTUAL_LAYER: (int(top.ids[1, 2, 0]),)}])
    assert found.scores[0, 1, 2] == top.scores[1, 2, 0]
    assert found.ranks[0, 1, 2] == 1
    plain = LogitLens.from_model(llm).score_words(states, [0, 3], [{NO_CONTEXTUAL_LAYER: (int(top.ids[1, 2, 0]),)}])
    assert not torch.equal(plain.scores, found.scores)
    read = lenscore.analyze_text("the red dog", llm, tuned=PACKAGE, layers="0,final").reading
    scores = {one.lens: one.scores for one in read.lenses}
    assert list(scores) == ["logit", "embedding", "tuned"]
    assert np.array_equal(scores["logit"][1], scores["tuned"][1])  # after the last block there is nothing to translate
    assert not np.array_equal(scores["logit"][0], scores["tuned"][0])


def test_a_folder_without_biases_is_read(tmp_path: Path, llm: LanguageModel) -> None:
    shutil.copytree(PACKAGE, tmp_path / "lens")
    config = tmp_path / "lens" / "config.json"
    config.write_text(config.read_text().replace('"bias": true', '"bias": false'))
    tensors = torch.load(PACKAGE / "params.pt", weights_only=True)
    torch.save({name: tensor for name, tensor in tensors.items() if "weight" in name}, tmp_path / "lens" / "params.pt")
    lens = TunedLens.from_files(llm, TunedLensFiles.open(tmp_path / "lens"))
    assert torch.equal(lens.translated(torch.zeros(1, 2, 32), [1]), torch.zeros(1, 2, 32))
