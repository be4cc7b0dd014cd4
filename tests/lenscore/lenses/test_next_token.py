"""Probabilities, entropies and divergences of a lens against softmax in float64 over the whole vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp

from lenscore.lenses import EmbeddingLens, LatentLens, LogitLens, NextTokenLens, reads_next_token
from lenscore.lenses import logit as logit_lens
from lenscore.lenses import vocabulary_lens as vocabulary
from lenscore.lenses.head_output import HeadOutput
from lenscore.models.loading import LanguageModel
from tests.conftest import make_llama, make_tokenizer

TOKENS, LAYERS = 9, (0, 2, 3)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "TOKENS_PER_BLOCK", 7)
    for module in (vocabulary, logit_lens):
        monkeypatch.setattr(module, "QUERIES_PER_BLOCK", 7)  # two tokens of three layers at a time


def some_states(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.randn(4, TOKENS, 32, generator=torch.Generator().manual_seed(5))
    return made[:3].to(dtype), made[3].to(dtype)


def lens(cap: float | None, dtype: torch.dtype, sharpness: float = 1.0) -> LogitLens:
    model = make_llama().to(dtype)
    head = model.lm_head.weight * sharpness
    return LogitLens(model.model.norm, head, None, make_tokenizer(), HeadOutput(2.0, cap), 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cap", [None, 30.0])
@pytest.mark.parametrize("sharpness", [0.1, 4.0])  # nearly uniform, and nearly certain
def test_numbers_are_those_of_the_whole_distribution(sharpness: float, cap: float | None, dtype: torch.dtype) -> None:
    logit = lens(cap, dtype, sharpness)
    states, last = some_states(dtype)
    top, found = logit.read(states, LAYERS, 4, last)
    logits = np.stack([logit.logits(layer).double().numpy() for layer in states])
    log_p, log_final = log_softmax(logits, axis=-1), log_softmax(logit.logits(last).double().numpy(), axis=-1)
    rounding = 4e-6 * np.abs(logits).max()  # of float32
    assert np.abs(found.log_normalizers.numpy() - logsumexp(logits, axis=-1)).max() < rounding
    assert np.abs(found.entropies.numpy() + (np.exp(log_p) * log_p).sum(-1)).max() < rounding
    divergences = (np.exp(log_final) * (log_final - log_p)).sum(-1)
    assert np.abs(found.divergences.numpy() - divergences).max() < rounding
    assert divergences.max() > 0.05
    shares = torch.exp(top.scores - found.log_normalizers[..., None]).numpy()
    assert np.abs(shares - np.take_along_axis(np.exp(log_p), top.ids.long().numpy(), axis=-1)).max() < rounding


def test_candidates_are_those_of_top() -> None:
    logit = lens(30.0, torch.float32)
    states, last = some_states(torch.float32)
    top, alone = logit.read(states, LAYERS, 4, last)[0], logit.top(states, LAYERS, 4)
    assert torch.equal(top.ids, alone.ids)
    assert torch.allclose(top.scores, alone.scores, rtol=1e-6, atol=0)


def test_the_last_block_does_not_differ_from_itself() -> None:
    _, last = some_states(torch.float32)
    assert lens(None, torch.float32).read(last[None], [4], 3, last)[1].divergences.abs().max() == 0


def test_only_lenses_of_logits_read_distributions() -> None:
    assert [reads_next_token(kind) for kind in (LogitLens, EmbeddingLens, LatentLens)] == [True, False, False]
    model = LanguageModel("tiny", make_llama(), make_tokenizer())
    assert isinstance(LogitLens.from_model(model), NextTokenLens)
    assert not isinstance(EmbeddingLens.from_model(model), NextTokenLens)
