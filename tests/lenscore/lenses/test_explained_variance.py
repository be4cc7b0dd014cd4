"""Explained variance against scipy's solver, and against the definitions in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import nnls

from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.topk import TopK
from lenscore.lenses import EmbeddingLens, LatentLens, LogitLens, VarianceExplainer, references
from lenscore.lenses import explained_variance as module
from lenscore.lenses.explained_variance import explained_shares
from lenscore.lenses.references import References, draw_candidates
from lenscore.models.loading import LanguageModel
from tests.conftest import WORDS, make_llama, make_tokenizer

IMAGES = [("first", 5), ("second", 4)]


def share(vectors: np.ndarray, centred: np.ndarray) -> float:
    """The share that scipy finds."""
    _, residual = nnls(vectors.T, centred)
    return float(1 - residual**2 / (centred @ centred))


@settings(max_examples=200, deadline=None)
@given(arrays(np.int8, (6, 4), elements=st.integers(-3, 3)), st.integers(0, 5), st.integers(-2, 2))
def test_shares_are_those_of_scipy(numbers: np.ndarray, copied: int, factor: int) -> None:
    """Small whole numbers make references that are zero, equal, opposite and in the span of others."""
    *vectors, centred = numbers.astype(float)
    vectors = np.array(vectors)
    vectors[4] = factor * vectors[copied % 4] + vectors[copied // 4]
    one, five = explained_shares(torch.from_numpy(vectors)[None], torch.from_numpy(centred)[None])
    if not centred.any():
        assert one.isnan().all()
        assert five.isnan().all()
        return
    assert float(five) == pytest.approx(share(vectors, centred), abs=1e-12)
    assert float(one) == pytest.approx(share(vectors[:1], centred), abs=1e-12)
    assert 0 <= float(one) <= float(five) + 1e-12
    again, scaled = explained_shares(torch.from_numpy(vectors[None] * 1e-4), torch.from_numpy(centred[None] * 1e5))
    assert float(again) == pytest.approx(float(one))
    assert float(scaled) == pytest.approx(float(five))


def model() -> LanguageModel:
    return LanguageModel("tiny", make_llama(), make_tokenizer())


def index() -> ContextualIndex:
    made = torch.randn(2, 30, 32, generator=torch.Generator().manual_seed(3))
    words = [{"token_str": "w", "token_id": 0, "caption": "w", "position": 0}] * 30
    return ContextualIndex({layer: {"embeddings": made[n], "metadata": words} for n, layer in enumerate((1, 3))})


def definitions(name: str, states: torch.Tensor) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """What is compared, and the vectors of all candidates by contextual layer and id (NaN for no candidates)."""
    llm = make_llama()
    units = torch.nn.functional.normalize(states, dim=-1).numpy()
    if name == "latent":
        return units, {layer: torch.cat(list(index().blocks(layer))).numpy() for layer in (1, 3)}
    words = [make_tokenizer().get_vocab()[word] for word in WORDS]
    matrix = (llm.get_input_embeddings() if name == "embedding" else llm.lm_head).weight.detach().numpy().copy()
    if name == "embedding":
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    matrix[[i for i in range(len(matrix)) if i not in words]] = np.nan
    with torch.no_grad():
        return (units if name == "embedding" else llm.model.norm(states).numpy()), {-1: matrix}


@pytest.mark.parametrize("name", ["latent", "logit", "embedding"])
def test_a_lens_explains_as_defined(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NUMBERS_PER_BLOCK", 7 * 5 * 32)  # seven tokens at a time
    monkeypatch.setattr(references, "_VECTORS_PER_BLOCK", 4)
    states, layers = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(4)), (0, 2)
    lens = {"latent": lambda: LatentLens(index()), "logit": lambda: LogitLens.from_model(model())}.get(
        name, lambda: EmbeddingLens.from_model(model())
    )()
    top = lens.top(states, layers, 6)
    found = VarianceExplainer(lens).explain(states, layers, top, IMAGES)
    compared, vectors = definitions(name, states)
    centres = {layer: np.nanmean(every.astype(float), axis=0) for layer, every in vectors.items()}
    for place in range(2):
        for token in range(9):
            image = slice(0, 5) if token < 5 else slice(5, 9)
            centred = compared[place, token].astype(float) - compared[place, image].astype(float).mean(axis=0)
            assert float(found.variances[place, token]) == pytest.approx(centred @ centred, rel=1e-5)
            ids, contexts = top.ids[place, token, :5].tolist(), top.contextual_layers[place, token, :5].tolist()
            best = np.array([vectors[layer][one] - centres[layer] for one, layer in zip(ids, contexts, strict=True)])
            assert float(found.explained_5[place, token]) == pytest.approx(share(best, centred), abs=1e-5)
            assert float(found.explained_1[place, token]) == pytest.approx(share(best[:1], centred), abs=1e-5)
    assert 0 <= float(found.random_1.min()) < float(found.random_5.max()) < 1
    one = VarianceExplainer(lens).explain(states[:, 5:], layers, TopK(*(part[:, 5:] for part in top)), IMAGES[1:])
    for alone, together in zip(one, found, strict=True):
        assert torch.equal(alone, together[:, 5:])  # no other image matters
    other = VarianceExplainer(lens).explain(states, layers, top, [("another", 5), IMAGES[1]])
    assert torch.equal(other.explained_5, found.explained_5)
    assert not torch.equal(other.random_5[:, :5], found.random_5[:, :5])


def test_random_candidates_differ_and_are_drawn_evenly() -> None:
    def made(count: int, excluded: list[int]) -> References:
        return References(count, torch.tensor(excluded), lambda ids: torch.eye(count)[ids])

    known = {1: made(9, [0, 4, 8]), 2: made(7, [])}
    contexts = torch.tensor([[1, 2, 1, 1, 2]]).repeat(6000, 1)
    drawn = draw_candidates(known, torch.from_numpy(module.random_numbers("image", 6000, 5)), contexts).numpy()
    for layer, candidates in ((1, [1, 2, 3, 5, 6, 7]), (2, list(range(7)))):
        of_layer = drawn[:, contexts[0].numpy() == layer]
        assert {len(set(row)) for row in of_layer.tolist()} == {of_layer.shape[1]}
        for column in of_layer.T:
            ids, counts = np.unique(column, return_counts=True)
            assert ids.tolist() == candidates
            assert np.abs(counts - 6000 / len(candidates)).max() < 4.5 * np.sqrt(6000 / len(candidates))


def test_the_mean_is_that_of_candidates() -> None:
    matrix = torch.arange(12.0).reshape(6, 2)
    references = References(6, torch.tensor([1, 2]), lambda ids: matrix[ids])
    assert references.mean().tolist() == matrix[[0, 3, 4, 5]].mean(dim=0).tolist()
