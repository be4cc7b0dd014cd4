"""The contextual index against brute force: exact order under ties, and the arithmetic of every encoding."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lenscore.index import exact_search as scan
from lenscore.index.contextual_index import ContextualIndex, QuantizedLayer
from lenscore.lenses import LatentLens
from storage_layouts.errors import InputError
from storage_layouts.quantize import choose_outlier_dims, encode

SIGNS = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, 0, 0, 0], [0, 0, 0, -1], [-1, -1, -1, -1]], float)
"""Of length 1 or 2, so all cosines among them are exact multiples of a quarter, and most of them are equal."""


def layer_codes(states: torch.Tensor, encoding: str) -> QuantizedLayer:
    dims = choose_outlier_dims(states, count=2) if encoding != "float16" else np.empty(0, np.int32)
    return QuantizedLayer(encode(states, encoding, dims), encoding, dims)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 12).flatmap(
        lambda n: st.dictionaries(
            st.integers(0, 30), st.lists(st.integers(0, 5), min_size=n, max_size=n), min_size=1, max_size=3
        )
    ),
    queries=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    k=st.integers(1, 6),
    block=st.integers(1, 13),
    group=st.integers(1, 4),
    data=st.data(),
)
def test_search_is_brute_force_also_under_ties(
    rows: dict[int, list[int]], queries: list[int], k: int, block: int, group: int, data: st.DataObject
) -> None:
    layers = data.draw(st.lists(st.sampled_from(sorted(rows)), min_size=1, unique=True))
    unit = SIGNS / np.linalg.norm(SIGNS, axis=1, keepdims=True)
    candidates = [(layer, row, kind) for layer in layers for row, kind in enumerate(rows[layer])]
    k = min(k, len(candidates))
    index = ContextualIndex({la: layer_codes(torch.tensor(SIGNS[kinds]), "float16") for la, kinds in rows.items()})
    with mock.patch.multiple(scan, BLOCK={"cpu": (4 * block, block)}, GROUP=group, QUERIES={"cpu": 2}):
        top = index.top(torch.tensor(SIGNS[queries] * 4).bfloat16(), k, layers)
    for i, query in enumerate(queries):
        expected = sorted((-float(unit[query] @ unit[kind]), layer, row) for layer, row, kind in candidates)[:k]
        scores, ids, found = top.scores[i].tolist(), top.ids[i].tolist(), top.contextual_layers[i].tolist()
        assert [(-score, layer, row) for score, layer, row in zip(scores, found, ids, strict=True)] == expected


def e4m3(codes: np.ndarray) -> np.ndarray:
    """OCP 8-bit floating point, E4M3: sign, 4 bits of exponent with bias 7, 3 bits of mantissa."""
    sign, exponent, mantissa = codes >> 7, (codes >> 3) & 15, (codes & 7).astype(float)
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent.astype(float) - 7))
    return np.where(sign == 1, -size, size)


@pytest.mark.parametrize("encoding", ["float8_e4m3fn", "int8", "float16"])
def test_scores_are_those_of_the_codes_in_float64(encoding: str) -> None:
    """score = scale * (codes . q) + outliers . q[outlier dims], with dimensions a thousand times the others."""
    generator = torch.Generator().manual_seed(5)
    size = torch.ones(24)
    size[[3, 17]] = torch.tensor([1000.0, 300.0])
    states = {layer: torch.randn(50, 24, generator=generator) * size for layer in (1, 4, 9)}
    queries = torch.randn(13, 24, generator=generator) * size
    codes = {layer: layer_codes(rows, encoding) for layer, rows in states.items()}
    q = queries.double().numpy()
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    scores = []
    for layer in (1, 4, 9):
        e, dims = codes[layer].encoded.numpy(), codes[layer].outlier_dims
        values = {"float8_e4m3fn": e4m3, "int8": lambda c: c.astype(float) - 128, "float16": lambda c: c.astype(float)}
        kept_apart = q[:, dims] @ e.outliers.astype(float).T if len(dims) else 0.0
        scores.append(q @ values[encoding](e.codes).T * e.scale.astype(float) + kept_apart)
    together = np.concatenate(scores, axis=1)
    order = np.argsort(-together, axis=1, kind="stable")[:, :7]
    with mock.patch.multiple(scan, BLOCK={"cpu": (16 * 24, 16)}, GROUP=8, QUERIES={"cpu": 4}):
        top = LatentLens(ContextualIndex(codes)).top(queries[None], [0], 7)
    assert np.array_equal(top.ids[0].numpy(), order % 50)
    assert np.array_equal(top.contextual_layers[0].numpy(), np.array([1, 4, 9])[order // 50])
    assert np.abs(top.scores[0].double().numpy() - np.take_along_axis(together, order, axis=1)).max() < 1e-6


def small_index() -> ContextualIndex:
    states = torch.eye(6)
    rows = pa.table(
        {
            "token_id": pa.array([10, 11, 12, 10, 11, 12], pa.int32()),
            "token": ["red", " car", "s", "red", " hat", "x"],
            "sentence_id": pa.array([0, 0, 0, 7, 7, 7], pa.int64()),
            "position": pa.array([0, 1, 2, 0, 1, 2], pa.int32()),
        }
    )
    sentences = pa.table({"sentence_id": pa.array([0, 7], pa.int64()), "text": ["red cars", "red hat x"]})
    return ContextualIndex({2: layer_codes(states, "int8"), 5: layer_codes(states.flip(0), "int8")}, rows, sentences)


def test_neighbors_carry_their_sentence() -> None:
    index = small_index()
    assert (len(index), index.available_layers, index.hidden_dim) == (12, [2, 5], 6)
    found = index.search(torch.eye(6, dtype=torch.float64)[[1, 4]] * 9, top_k=2)
    first = found[0][0]
    assert (first.token_str, first.caption, first.position, first.token_id) == (" car", "red cars", 1, 11)
    assert first.similarity == pytest.approx(1, abs=1e-3)
    assert [(n.contextual_layer, n.token_str) for n in found[0]] == [(2, " car"), (5, " hat")]
    assert [(n.contextual_layer, n.token_str) for n in found[1]] == [(2, " hat"), (5, " car")]
    assert index.search(torch.eye(6)[4], top_k=1, layers=[5])[0][0].token_str == " car"


def test_wrong_queries_are_refused() -> None:
    index = small_index()
    with pytest.raises(InputError, match=r"queries of shape \[2, 5\]: expected \[n, 6\]"):
        index.top(torch.ones(2, 5), 1)
    with pytest.raises(InputError, match="no contextual layer 3; expected some of 2, 5"):
        index.top(torch.ones(2, 6), 1, [3])
    with pytest.raises(InputError, match="top_k 13: the index has 12 candidates"):
        index.top(torch.ones(2, 6), 13)
    for bad in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="contextual search: query 1"):
            index.top(torch.stack([torch.ones(6), torch.full((6,), bad)]), 1)
