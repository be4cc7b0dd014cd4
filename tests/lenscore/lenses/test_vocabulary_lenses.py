"""EmbeddingLens and LogitLens against brute force in float64, and their candidates."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from lenscore.lenses import LENSES, EmbeddingLens, LogitLens, lenses_named
from lenscore.lenses import vocabulary_lens as vocabulary
from lenscore.lenses.vocabulary_lens import excluded_tokens
from lenscore.models.loading import Vlm
from storage_layouts.errors import InputError
from tests.conftest import make_tokenizer

SPECIAL_AND_PADDED = [0, 1, 2, 3, 4, *range(27, 40)]  # <unk> <s> </s> <pad> <image>, then rows without a token
LAYERS = (0, 2)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "TOKENS_PER_BLOCK", 7)
    monkeypatch.setattr(vocabulary, "QUERIES_PER_BLOCK", 5)


def in_dtype(vlm: Vlm, dtype: torch.dtype) -> Vlm:
    model = copy.deepcopy(vlm.model).to(dtype)
    return Vlm(vlm.name, model, vlm.tokenizer, vlm.processor)


def some_states(dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(3)) * 30).to(dtype)


def best_of(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = scores.copy()
    scores[..., SPECIAL_AND_PADDED] = -np.inf
    ids = np.argsort(-scores, axis=-1, kind="stable")[..., :k]
    return ids, np.take_along_axis(scores, ids, axis=-1)


def f64(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float64).numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_embedding_lens_is_the_cosine_with_input_embeddings(tiny_vlm: Vlm, dtype: torch.dtype) -> None:
    vlm = in_dtype(tiny_vlm, dtype)
    states = some_states(dtype)
    top = EmbeddingLens.from_model(vlm).top(states, LAYERS, 6)
    h, e = f64(states), f64(vlm.model.get_input_embeddings().weight)
    lengths = np.linalg.norm(e, axis=1)
    lengths[lengths == 0] = 1  # <pad>
    cosine = (h / np.linalg.norm(h, axis=-1, keepdims=True)) @ (e / lengths[:, None]).T
    ids, scores = best_of(cosine, 6)
    assert top.scores.dtype == torch.float32
    assert np.array_equal(top.ids.numpy(), ids)
    assert np.abs(f64(top.scores) - scores).max() < 1e-6
    assert (top.contextual_layers == -1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logit_lens_is_norm_and_head_in_float32(tiny_vlm: Vlm, dtype: torch.dtype) -> None:
    vlm = in_dtype(tiny_vlm, dtype)
    states = some_states(dtype)
    top = LogitLens.from_model(vlm).top(states, LAYERS, 6)
    h, norm, head = f64(states), vlm.decoder.norm, f64(vlm.model.get_output_embeddings().weight)
    normed = h / np.sqrt((h**2).mean(axis=-1, keepdims=True) + norm.variance_epsilon) * f64(norm.weight)
    ids, scores = best_of(normed @ head.T, 6)
    assert np.array_equal(top.ids.numpy(), ids)
    assert np.abs(f64(top.scores) - scores).max() < 1e-5


def test_logit_lens_agrees_with_the_models_own_logits(tiny_vlm: Vlm) -> None:
    """On the state after the last block, before the final norm: a norm applied twice or not at all would fail."""
    seen: list[torch.Tensor] = []
    hook = tiny_vlm.decoder.norm.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.no_grad():
        logits = tiny_vlm.model(input_ids=torch.tensor([[1, 5, 7, 12, 18]])).logits
    hook.remove()
    top = LogitLens.from_model(tiny_vlm).top(seen[0], [3], 4)
    ids, scores = best_of(f64(logits), 4)
    assert np.array_equal(top.ids.numpy(), ids)
    assert np.abs(f64(top.scores) - scores).max() < 1e-5


def test_logit_lens_adds_the_bias_of_a_head_that_has_one(tiny_vlm: Vlm) -> None:
    head = torch.nn.Linear(32, 40)
    torch.nn.init.normal_(head.bias, std=20)
    lens = LogitLens(torch.nn.LayerNorm(32).bfloat16(), head.weight.bfloat16(), head.bias, tiny_vlm.tokenizer)
    states = some_states(torch.bfloat16)
    normed = torch.nn.functional.layer_norm(states.double(), (32,))
    ids, _ = best_of(f64(normed) @ f64(head.weight.bfloat16()).T + f64(head.bias), 5)
    assert np.array_equal(lens.top(states, LAYERS, 5).ids.numpy(), ids)


def test_special_added_and_padded_tokens_are_no_candidates(tiny_vlm: Vlm) -> None:
    assert excluded_tokens(tiny_vlm.tokenizer, 40) == SPECIAL_AND_PADDED
    matrix = torch.randn(40, 32)
    states = matrix[None]  # every state is exactly one of the embeddings
    top = EmbeddingLens(matrix, tiny_vlm.tokenizer).top(states, [0], 22)
    assert sorted(set(top.ids.flatten().tolist())) == list(range(5, 27))
    assert top.ids[0, 5:27, 0].tolist() == list(range(5, 27))
    for name in ("embedding", "logit"):
        with pytest.raises(InputError, match=rf"--top-k 23: the {name} lens has 22 candidate tokens"):
            LENSES[name].from_model(tiny_vlm, None).top(states, [0], 23)


def test_added_tokens_and_rows_of_length_zero_are_no_candidates() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<tool>"])  # an added token that is not declared special
    assert 27 in excluded_tokens(tokenizer, 40)
    matrix = torch.randn(40, 32)
    matrix[9] = 0
    ids = EmbeddingLens(matrix, tokenizer).top(matrix[None, 5:8], [0], 21).ids
    assert sorted(ids[0, 0].tolist()) == [i for i in range(5, 27) if i != 9]


@pytest.mark.parametrize("name", ["embedding", "logit"])
def test_nan_states_are_loud(tiny_vlm: Vlm, name: str) -> None:
    states = torch.randn(1, 8, 32)
    states[0, 6, 3] = float("nan")
    with pytest.raises(ValueError, match=f"the {name} lens: query"):
        LENSES[name].from_model(tiny_vlm, None).top(states, [0], 3)


def test_names_of_lenses() -> None:
    assert [lens.name for lens in lenses_named("logit, latent")] == ["logit", "latent"]
    for wrong in ("logits", "", "logit,logit"):
        with pytest.raises(InputError, match="--lenses"):
            lenses_named(wrong)
