"""Encodings against float64 numpy, and the ranks that survive them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_layouts.quantize import (
    ENCODINGS,
    FILLS,
    LARGEST,
    Encoded,
    choose_outlier_dims,
    decode_unit,
    encode,
    fill_among,
    with_more_outliers,
)


def e4m3fn_values() -> np.ndarray:
    """The 256 numbers of float8_e4m3fn, from its definition: 1 sign, 4 exponent (bias 7), 3 mantissa bits."""
    code = np.arange(256)
    sign, exponent, mantissa = np.where(code < 128, 1.0, -1.0), (code >> 3) & 15, code & 7
    value = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    return np.where((code & 127) == 127, np.nan, sign * value)


def decoded_by_hand(e: Encoded, encoding: str, dims: np.ndarray) -> np.ndarray:
    """float64 oracle of `decode_unit`, from the definition of the codes."""
    e = e.numpy()
    if encoding == "float8_e4m3fn":
        values = e4m3fn_values()[e.codes]
    else:
        values = e.codes.astype(np.float64) - (128 if encoding == "int8" else 0)
    unit = values * e.scale.astype(np.float64)[:, None]
    unit[:, dims] = e.outliers
    return unit


def error_bound(unit: np.ndarray, scale: np.ndarray, encoding: str) -> np.ndarray:
    s = scale.astype(np.float64)[:, None]
    bound = {
        "float8_e4m3fn": np.abs(unit) / 16 + s / 1024,
        "int8": s / 2,
        "float16": np.abs(unit) / 2048 + s / 2**25,
        "float32": 0.0,
    }[encoding]
    return bound + 1e-6 * np.abs(unit) + 1e-7 * s  # float32 arithmetic


def states_with_rogues(rng: np.random.Generator, rows: int, dim: int, size: float, spread: float) -> np.ndarray:
    """Gaussian states whose 8 rogue dimensions are ``size`` times larger and vary by ``spread`` of themselves."""
    states = rng.standard_normal((rows, dim))
    rogue = rng.choice(dim, 8, replace=False)
    states[:, rogue] = size * rng.choice([-1, 1], 8) * (1 + spread * rng.standard_normal((rows, 8)))
    return states


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_number_is_within_the_bound_of_its_encoding(rng, encoding: str, dtype: torch.dtype) -> None:
    states = torch.from_numpy(states_with_rogues(rng, 300, 64, 100, 0.5) * rng.lognormal(0, 1, (300, 1))).to(dtype)
    exact = states.double().numpy()
    norm = np.linalg.norm(exact, axis=1)
    unit = exact / norm[:, None]
    dims = choose_outlier_dims(states)
    e = encode(states, encoding, dims).numpy()
    np.testing.assert_allclose(e.norm, norm, rtol=1e-6)
    by_hand = decoded_by_hand(e, encoding, dims)
    np.testing.assert_allclose((by_hand * unit).sum(axis=1), 1, atol=1e-6)
    rest = unit.copy()
    rest[:, dims] = 0
    scale = np.abs(rest).max(axis=1) / LARGEST[encoding] if encoding != "float32" else np.ones(300)
    nearest = by_hand * (scale / e.scale)[:, None]
    nearest[:, dims] = by_hand[:, dims]
    assert (np.abs(nearest - unit) <= error_bound(unit, scale, encoding)).all()
    np.testing.assert_allclose(by_hand[:, dims], unit[:, dims], rtol=1e-6)
    decoded = decode_unit(e, encoding, dims)
    assert decoded.dtype == torch.float32
    np.testing.assert_allclose(decoded.numpy(), by_hand, rtol=1e-6)
    codes = {"float16": np.float16, "float32": np.float32}.get(encoding, np.uint8)
    assert (e.codes.dtype, e.outliers.dtype) == (codes, np.float32)
    assert (e.outliers.shape, e.scale.dtype, e.norm.dtype) == ((300, 6), np.float32, np.float32)


@settings(max_examples=60, deadline=None)
@given(
    encoding=st.sampled_from(ENCODINGS),
    dim=st.integers(1, 300),
    tail=st.floats(0, 3),
    count=st.integers(1, 8),
    seed=st.integers(0, 2**32),
)
def test_a_decoded_row_times_its_state_is_1(encoding: str, dim: int, tail: float, count: int, seed: int) -> None:
    """So the error is perpendicular to the state, however its numbers are distributed (`tail`: how unevenly)."""
    rng = np.random.default_rng(seed)
    states = rng.standard_normal((20, dim)) * rng.lognormal(0, tail, dim) * rng.lognormal(0, tail, (20, dim))
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    dims = choose_outlier_dims(torch.from_numpy(states), count)
    by_hand = decoded_by_hand(encode(torch.from_numpy(states), encoding, dims), encoding, dims)
    np.testing.assert_allclose((by_hand * unit).sum(axis=1), 1, atol=1e-6)


def test_the_whole_range_of_codes_is_used_and_the_fill_code_never(rng) -> None:
    states = torch.from_numpy(rng.standard_normal((4000, 256)).astype(np.float32))
    dims = choose_outlier_dims(states)
    for encoding, used in (("float8_e4m3fn", 254), ("int8", 255)):
        codes = np.unique(encode(states, encoding, dims).codes)
        assert FILLS[encoding] not in codes
        assert len(codes) >= used - 2  # the smallest subnormals are rare


# One per kind of large dimension: as random as the others, or nearly the same in every row as in real models.
@pytest.mark.parametrize(("size", "spread", "least"), [(100, 1.0, 0.97), (3000, 1.0, 0.97), (3000, 0.03, 0.97)])
def test_the_five_nearest_neighbours_survive_rogue_dimensions(rng, size: float, spread: float, least: float) -> None:
    states = states_with_rogues(rng, 12_100, 1024, size, spread)
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    rows, queries = states[100:], unit[:100]
    truth = np.argsort(-(queries @ unit[100:].T), axis=1)[:, :5]
    dims = choose_outlier_dims(torch.from_numpy(rows[:2000]))
    for encoding in ("float8_e4m3fn", "int8"):
        decoded = decode_unit(encode(torch.from_numpy(rows), encoding, dims), encoding, dims)
        scores = torch.from_numpy(queries).float() @ decoded.T
        found = scores.topk(5).indices.numpy()
        recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(truth, found, strict=True)])
        assert recall >= least, encoding


def test_contexts_of_one_token_keep_their_order(rng) -> None:
    """As in the first layers of real models: rows of a token are almost parallel, and dimensions differ in size."""
    size = rng.lognormal(0, 1, 256)
    token = np.repeat(rng.standard_normal((150, 256)), 21, axis=0)
    states = size * (token + 0.1 * rng.standard_normal(token.shape))
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    asked = np.arange(len(states)) % 21 == 20
    rows, queries = torch.from_numpy(states[~asked]), unit[asked]
    truth = np.argsort(-(queries @ unit[~asked].T), axis=1)[:, :5]
    dims = choose_outlier_dims(rows[:512])
    for encoding, least in (("float8_e4m3fn", 0.9), ("int8", 0.97)):
        decoded = decoded_by_hand(encode(rows, encoding, dims), encoding, dims)
        found = np.argsort(-(queries @ decoded.T), axis=1)[:, :5]
        recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(truth, found, strict=True)])
        assert recall >= least, (encoding, recall)


def test_a_row_depends_on_itself_alone(rng) -> None:
    states = torch.from_numpy(rng.standard_normal((130, 40)).astype(np.float32))
    dims = choose_outlier_dims(states)
    for encoding in ENCODINGS:
        whole = encode(states, encoding, dims).numpy()
        for first, stop in ((0, 1), (7, 100), (64, 130)):
            part = encode(states[first:stop], encoding, dims).numpy()
            for name in ("codes", "outliers", "scale", "norm"):
                assert getattr(part, name).tobytes() == getattr(whole, name)[first:stop].tobytes()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("more", [0, 1, 7, 30])
def test_more_outliers_change_no_bit_of_the_decoded_rows(rng, encoding: str, more: int) -> None:
    states = torch.from_numpy(states_with_rogues(rng, 50, 40, 100, 0.5))
    dims = choose_outlier_dims(states, 8)
    larger = np.sort(np.concatenate([dims, rng.permutation(np.setdiff1d(np.arange(40), dims))[:more]])).astype(np.int32)
    e = encode(states, encoding, dims).numpy()
    moved = with_more_outliers(e, encoding, dims, larger)
    assert torch.equal(decode_unit(moved, encoding, larger), decode_unit(e, encoding, dims))
    # Searches multiply the codes and the outliers, and add.
    ignored = Encoded(moved.codes, np.zeros_like(moved.outliers), moved.scale, moved.norm)
    by_hand = decoded_by_hand(ignored, encoding, larger)
    none = decoded_by_hand(
        Encoded(moved.codes, np.empty((50, 0)), moved.scale, moved.norm), encoding, np.array([], int)
    )
    assert np.array_equal(by_hand, none)
    kept = np.setdiff1d(np.arange(40), larger)
    assert np.array_equal(moved.codes[:, kept], e.codes[:, kept])
    assert fill_among(moved, encoding) == ""


@pytest.mark.parametrize("factor", [1e-35, 1e30])
def test_very_small_and_very_large_states_keep_their_direction(rng, factor: float) -> None:
    states = torch.from_numpy(rng.standard_normal((20, 32))) * factor
    dims = choose_outlier_dims(states)
    decoded = decode_unit(encode(states, "int8", dims), "int8", dims).double()
    assert torch.nn.functional.cosine_similarity(decoded, states / factor).min() > 0.9999


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_row_that_lies_in_the_outlier_dimensions_alone(encoding: str) -> None:
    states = torch.zeros(3, 16)
    states[:, 2] = torch.tensor([1.0, -2.0, 3.0])
    decoded = decode_unit(encode(states, encoding, [2]), encoding, [2])
    assert torch.equal(decoded, states.sign())


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "not finite"), (float("inf"), "not finite"), (0.0, "is zero"), (3e38, "not finite")],
)
def test_a_row_without_a_direction_is_refused_with_its_number(value: float, message: str) -> None:
    states = torch.ones(6, 32)
    states[4] = value
    for refused in (lambda: encode(states, "int8", [0], "layer 8"), lambda: choose_outlier_dims(states, 8, "layer 8")):
        with pytest.raises(ValueError, match=rf"row 4 of the states of layer 8.*{message}"):
            refused()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_fill_values_are_refused_wherever_they_are(rng, encoding: str) -> None:
    states = torch.from_numpy(rng.standard_normal((5, 32)))
    good = encode(states, encoding, [1, 2]).numpy()
    assert fill_among(good, encoding) == ""
    fills = {"codes": [FILLS[encoding]], "outliers": ["nan", "-inf"], "scale": ["nan", "inf"], "norm": ["nan"]}
    if encoding == "float8_e4m3fn":
        fills["codes"].append(255)  # the other NaN
    for name, values in fills.items():
        for value in values:
            parts = {part: getattr(good, part).copy() for part in ("codes", "outliers", "scale", "norm")}
            parts[name][3, ...] = value
            bad = Encoded(**parts)
            assert name in fill_among(bad, encoding)
            if name != "norm":
                with pytest.raises(ValueError, match="row 3"):
                    decode_unit(bad, encoding, [1, 2])


def test_outlier_dimensions_are_the_largest_of_the_unit_vectors(rng) -> None:
    states = rng.standard_normal((50, 40))
    states[0] *= 1e6  # a long row is no reason to choose its dimensions
    unit = np.abs(states / np.linalg.norm(states, axis=1, keepdims=True)).max(axis=0)
    expected = np.sort(np.argsort(-unit)[:6])
    dims = choose_outlier_dims(torch.from_numpy(states))
    assert dims.dtype == np.int32
    assert dims.tolist() == expected.tolist()
    assert choose_outlier_dims(torch.from_numpy(states), 4).tolist() == np.sort(np.argsort(-unit)[:4]).tolist()
    assert choose_outlier_dims(torch.ones(3, 767)).tolist() == list(range(6))
    assert choose_outlier_dims(torch.ones(3, 768)).tolist() == list(range(8))
    assert len(choose_outlier_dims(torch.ones(3, 6))) == 3
    assert len(choose_outlier_dims(torch.ones(3, 1))) == 1
    with pytest.raises(ValueError, match="no states"):
        choose_outlier_dims(torch.ones(0, 40))


@pytest.mark.parametrize("dim", [576, 640, 767, 768, 4096])
def test_a_row_of_8_bits_takes_at_most_1_06_bytes_a_number(dim: int) -> None:
    states = torch.ones(3, dim)
    for encoding in ("float8_e4m3fn", "int8"):
        e = encode(states, encoding, choose_outlier_dims(states)).numpy()
        assert sum(part.nbytes for part in vars(e).values()) <= 1.06 * dim * len(states)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="float8_e4m3fn, int8, float16, float32"):
        encode(torch.ones(1, 2), "int4", [0])
    with pytest.raises(ValueError, match=r"expected floats \[n, D\]"):
        encode(torch.ones(1, 2, dtype=torch.int64), "int8", [0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_gpu_encodes_on_the_gpu_and_the_same(rng, encoding: str) -> None:
    states = torch.from_numpy(states_with_rogues(rng, 500, 256, 100, 0.5)).float()
    dims = choose_outlier_dims(states)
    assert choose_outlier_dims(states.cuda()).tolist() == dims.tolist()
    there = encode(states.cuda(), encoding, dims)
    assert all(getattr(there, name).is_cuda for name in ("codes", "outliers", "scale", "norm"))
    here, decoded = encode(states, encoding, dims), decode_unit(there, encoding, dims)
    assert decoded.is_cuda
    unit = (states.double() / states.double().norm(dim=1, keepdim=True)).numpy()
    bound = error_bound(unit, here.numpy().scale, encoding)
    assert (np.abs(decoded.cpu().double().numpy() - unit) <= bound).all()
