"""The pruned search against brute force in float64, and its bound against scores that were really computed."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lenscore.index import error_bounds as approximate_scores
from lenscore.index import exact_search as scan
from lenscore.index import small_index
from lenscore.index.error_bounds import Block, LayerQueries
from lenscore.index.exact_search import top_rows, unit_rows
from lenscore.index.quantized_layer import Buffers, QuantizedLayer, code_values
from lenscore.index.topk import TopK
from storage_layouts.quantize import ENCODINGS, FILLS, Encoded, choose_outlier_dims, encode
from storage_layouts.row_pieces import RowPieces

CPU = torch.device("cpu")


def coded(states: torch.Tensor, encoding: str) -> QuantizedLayer:
    dims = choose_outlier_dims(states, 3)
    if encoding == "float32":  # as they are: one scale of 1
        e = encode(states, "float16", dims)
        unit = (states.double() / states.double().norm(dim=1, keepdim=True)).float()
        codes = unit.index_fill(1, torch.from_numpy(dims).long(), 0.0)
        return QuantizedLayer(Encoded(codes, e.outliers, torch.ones_like(e.scale), e.norm), encoding, dims)
    return QuantizedLayer(encode(states, encoding, dims), encoding, dims)


def float32_product_of_halves(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """What a GPU does with float16 matrices, on a CPU."""
    assert left.dtype == right.dtype == torch.float16
    return left.float() @ right.float()


def oracle(queries: torch.Tensor, layers: dict[int, QuantizedLayer], k: int) -> list[list[tuple[float, int, int]]]:
    """(score, layer, row) of the k best by sorting all float64 scores, rounded to float32."""
    units = queries.double().numpy()
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    scores = []
    for codes in layers.values():
        e = codes.encoded.numpy()
        if codes.encoding == "float8_e4m3fn":
            values = torch.from_numpy(e.codes).view(torch.float8_e4m3fn).double().numpy()
        else:
            values = e.codes.astype(float) - (128 if codes.encoding == "int8" else 0)
        stored = values * e.scale.astype(float)[:, None]
        stored[:, codes.outlier_dims] = e.outliers
        scores.append(np.stack([(stored * unit).sum(axis=1) for unit in units]).astype(np.float32))
    names = [(layer, row) for layer, codes in layers.items() for row in range(len(codes))]
    return [
        sorted(
            ((score, *name) for score, name in zip(line.tolist(), names, strict=True)), key=lambda c: (-c[0], c[1:])
        )[:k]
        for line in np.concatenate(scores, axis=1)
    ]


def listed(top: TopK) -> list[list[tuple[float, int, int]]]:
    parts = (top.scores.tolist(), top.contextual_layers.tolist(), top.ids.tolist())
    return [list(zip(*line, strict=True)) for line in zip(*parts, strict=True)]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[torch.Tensor, dict[int, QuantizedLayer]]:
    """Queries and layers of random states: spread out, nearly alike, with equal rows, with rogue dimensions."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dim, rows, n = draw(st.integers(6, 70)), draw(st.integers(1, 300)), draw(st.integers(1, 9))
    size = torch.ones(dim)
    size[: draw(st.integers(0, 3))] = draw(st.sampled_from([100.0, 3000.0]))
    middle = torch.randn(dim, generator=generator) * draw(st.sampled_from([0.0, 3.0, 300.0]))

    def states(count: int) -> torch.Tensor:
        return (torch.randn(count, dim, generator=generator) + middle) * size

    encoding = draw(st.sampled_from([*ENCODINGS[:3], "float32"]))
    layers = {}
    for layer in draw(st.lists(st.integers(0, 40), min_size=1, max_size=3, unique=True).map(sorted)):
        of_layer = states(rows)
        if draw(st.booleans()):
            of_layer = of_layer[torch.randint(0, max(1, rows // 8), (rows,), generator=generator)]
        layers[layer] = coded(of_layer, encoding)
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
    return states(n).clamp(-60000, 60000).to(dtype), layers


@settings(max_examples=100, deadline=None)
@given(
    world=worlds(),
    k=st.integers(1, 400),
    numbers=st.integers(64, 4000),
    group=st.sampled_from([1, 3, 16, 64]),
    waiting=st.sampled_from([1, 2**20]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float16]),
)
def test_what_is_found_is_what_sorting_everything_finds(
    world: tuple[torch.Tensor, dict[int, QuantizedLayer]],
    k: int,
    numbers: int,
    group: int,
    waiting: int,
    dtype: torch.dtype,
) -> None:
    queries, layers = world
    k = min(k, sum(map(len, layers.values())))
    sizes = {"BLOCK": {"cpu": (numbers, 200)}, "GROUP": group, "QUERIES": {"cpu": 4}, "MOST_PENDING": waiting}
    with (
        mock.patch.multiple(scan, **sizes),
        mock.patch.object(approximate_scores, "scan_dtype", return_value=dtype),
        mock.patch.object(approximate_scores, "half_product", float32_product_of_halves),
        mock.patch.multiple(approximate_scores, EXACT_NUMBERS=500),
    ):
        top = top_rows(queries, [list(layers.items())], k)
    assert listed(top) == oracle(queries, layers, k)


@settings(max_examples=150, deadline=None)
@given(
    world=worlds(),
    k=st.integers(1, 60),
    nearly_equal=st.sampled_from([0, 4]),
    group=st.sampled_from([1, 3, 16, 64]),
    at_a_time=st.sampled_from([2, 64]),
)
def test_a_small_index_finds_the_same(
    world: tuple[torch.Tensor, dict[int, QuantizedLayer]], k: int, nearly_equal: int, group: int, at_a_time: int
) -> None:
    queries, layers = world
    k = min(k, sum(map(len, layers.values())))
    sizes = {"NEARLY_EQUAL": nearly_equal, "GROUP": group, "SCORES": 1, "QUERIES": at_a_time}
    with (
        mock.patch.multiple(small_index, **sizes),
        mock.patch.object(approximate_scores, "EXACT_NUMBERS", 500),
    ):
        small = small_index.SmallIndex.of(list(layers.items()))
        # A single query is multiplied in float16.
        found = [(some, small.top(unit_rows(some), k)) for some in (queries, *queries.split(1))]
    for some, top in found:
        if top is not None:  # None: it leaves nearly equal scores to the search that prunes
            assert listed(top) == oracle(some, layers, k)


@pytest.mark.parametrize(
    ("rows", "group", "count"), [(1000, 16, 9), (1037, 16, 9), (640, 64, 2), (70, 64, 9), (9, 2, 1)]
)
def test_the_largest_scores_are_found_by_groups(rows: int, group: int, count: int) -> None:
    scores = torch.randn(rows, 50, generator=torch.Generator().manual_seed(rows)).round(decimals=1)  # some are equal
    with mock.patch.object(small_index, "GROUP", group):
        values, places = small_index._largest(scores, count)
    assert values.tolist() == scores.T.topk(count, dim=1).values.tolist()
    assert scores.T.gather(1, torch.from_numpy(places)).tolist() == values.tolist()
    assert all(len(set(line)) == count for line in places.tolist())


@settings(max_examples=100, deadline=None)
@given(world=worlds())
def test_no_product_of_a_small_index_is_farther_off_than_its_bound(
    world: tuple[torch.Tensor, dict[int, QuantizedLayer]],
) -> None:
    queries, layers = world
    units = unit_rows(queries)
    for layer, codes in layers.items():
        exact = LayerQueries(units, layer, codes).exact_block(0, len(codes))
        small = small_index.SmallIndex.of([(layer, codes)])
        assert ((units.float() @ small.units.T - exact).abs() <= small.error_bound).all()
        if small.halves is not None:
            products = torch.stack([small.halves @ unit.half() for unit in units]).float()
            assert ((products - exact).abs() <= small.half_error_bound).all()


def test_a_cpu_that_sums_in_float16_multiplies_no_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    states = torch.randn(9, 16, generator=torch.Generator().manual_seed(1))
    layers = {3: coded(states, "int8")}
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda left, right: left.double().mv(right.double()).half() - 2)
    assert not small_index._multiplies_halves()
    monkeypatch.undo()
    monkeypatch.setattr(small_index, "_multiplies_halves", lambda: False)
    small = small_index.SmallIndex.of(list(layers.items()))
    assert small.halves is None
    assert listed(small.top(unit_rows(states[:1]), 4)) == oracle(states[:1], layers, 4)


def test_a_small_index_answers_where_20_rows_are_equal_and_others_are_left_out() -> None:
    generator = torch.Generator().manual_seed(5)
    states = torch.randn(40, 32, generator=generator).repeat_interleave(20, dim=0)
    queries = states[[0, 99, 400]] + 0.1
    whole = {layer: coded(states * layer, "float8_e4m3fn") for layer in (1, 7)}
    small = small_index.SmallIndex.of(list(whole.items()))
    assert listed(small.top(unit_rows(queries), 30)) == oracle(queries, whole, 30)
    left_out = {layer: replace(codes, excluded=np.arange(0, 800, 2)) for layer, codes in whole.items()}
    small = small_index.SmallIndex.of(list(left_out.items()))
    found = listed(small.top(unit_rows(queries), 15))
    assert found == [[one for one in line if one[2] % 2][:15] for line in oracle(queries, whole, 60)]
    assert found == listed(top_rows(queries, [list(left_out.items())], 15))


def test_a_small_index_leaves_large_searches_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    states = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    layers = [(3, coded(states, "int8"))]
    small = small_index.SmallIndex.of(layers)
    monkeypatch.setattr(small_index, "FEW_PRODUCTS", 2 * 64 * 16)
    for dtype, answers in ((torch.bfloat16, False), (torch.float32, True)):
        monkeypatch.setattr(small_index, "scan_dtype", lambda device, dtype=dtype: dtype)
        assert small.top(unit_rows(states[:2]), 1) is not None
        assert (small.top(unit_rows(states[:3]), 1) is not None) is answers
    monkeypatch.setattr(small_index, "LARGEST", 64 * 16 - 1)
    assert small_index.SmallIndex.of(layers) is None
    assert small_index.SmallIndex.of([*layers, (4, coded(states, "float16"))]) is None


@settings(max_examples=100, deadline=None)
@given(world=worlds(), dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float16]))
def test_no_rough_score_is_farther_off_than_its_bound(
    world: tuple[torch.Tensor, dict[int, QuantizedLayer]], dtype: torch.dtype
) -> None:
    queries, layers = world
    for layer, codes in layers.items():
        with (
            mock.patch.object(approximate_scores, "scan_dtype", return_value=dtype),
            mock.patch.object(approximate_scores, "half_product", float32_product_of_halves),
        ):
            seen = LayerQueries(unit_rows(queries), layer, codes)
            buffers = Buffers(CPU)
            block = Block.of(codes, 0, len(codes), buffers)
            approximate = seen.approximate(block, buffers, 8).flatten(0, 1)[: len(codes)]
        exact = seen.exact_block(0, len(codes)).T
        assert ((approximate - exact).abs() <= seen.error_bound(approximate)).all()


@pytest.mark.parametrize("count", [1, 3, 2000])
def test_equal_rows_are_found_in_their_order_wherever_they_stand(count: int) -> None:
    """Thousands of them: products of matrices round equal rows differently, by their place in a block."""
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(5000, 96, generator=generator)
    places = torch.randperm(5000, generator=generator)[:count]
    states[places] = states[0].clone()
    layers = {layer: coded(states.roll(layer, 0), "float8_e4m3fn") for layer in (0, 1, 2)}
    queries = states[[0, 1, 2]] + 0.1 * torch.randn(3, 96, generator=generator)
    for k in (1, 5, 40):
        found = {}
        for numbers in (2**12, 2**21):
            with mock.patch.object(scan, "BLOCK", {"cpu": (numbers, 8192)}):
                found[numbers] = listed(top_rows(queries, [list(layers.items())], k))
        assert found[2**12] == found[2**21] == oracle(queries, layers, k)


def test_a_layer_of_pieces_is_searched_like_one_of_a_piece() -> None:
    states = torch.randn(1000, 40, generator=torch.Generator().manual_seed(1))
    codes = coded(states, "float8_e4m3fn")
    e = codes.encoded
    pieces = Encoded(RowPieces(e.codes.split(150)), e.outliers, e.scale, e.norm)
    found = [
        listed(top_rows(states[::90], [[(3, QuantizedLayer(some, codes.encoding, codes.outlier_dims))]], 7))
        for some in (e, pieces)
    ]
    assert found[0] == found[1] == oracle(states[::90], {3: codes}, 7)


def test_one_thread_finds_what_many_find() -> None:
    states = torch.randn(3000, 40, generator=torch.Generator().manual_seed(1))
    layers = {1: coded(states, "int8"), 2: coded(states.flip(0), "int8")}
    found = []
    for threads in (1, 7):
        with (
            mock.patch.object(scan, "_threads", return_value=threads),
            mock.patch.multiple(scan, GROUP=16, BLOCK={"cpu": (4000, 100)}),
        ):
            found.append(listed(top_rows(states[::100], [list(layers.items())], 9)))
    assert found[0] == found[1] == oracle(states[::100], layers, 9)


def test_an_error_in_a_thread_is_raised_and_leaves_torch_as_it_was() -> None:
    threads = torch.get_num_threads()
    codes = coded(torch.randn(500, 16), "int8")
    with mock.patch.object(scan.Block, "of", side_effect=MemoryError("no room")), pytest.raises(MemoryError):
        top_rows(torch.randn(2, 16), [[(0, codes)]], 1)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("part", ["codes", "scale", "outliers"])
def test_rows_that_were_never_written_are_refused(encoding: str, part: str) -> None:
    codes = coded(torch.randn(20, 16, generator=torch.Generator().manual_seed(2)), encoding)
    e = codes.encoded
    parts = {name: getattr(e, name).clone() for name in ("codes", "outliers", "scale", "norm")}
    fill = FILLS[encoding]
    parts[part][13, ...] = float("nan") if part != "codes" or fill == "NaN" else fill
    broken = QuantizedLayer(Encoded(**parts), encoding, codes.outlier_dims)
    with pytest.raises(ValueError, match="row 13 holds fill values"):
        top_rows(torch.ones(1, 16), [[(0, broken)]], 1)


def test_queries_without_a_direction_are_refused_and_extreme_ones_are_not() -> None:
    codes = coded(torch.randn(20, 16, generator=torch.Generator().manual_seed(2)), "float16")
    query = torch.randn(1, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = listed(top_rows(query, [[(0, codes)]], 3))
    for factor in (2.0**900, 2.0**-900):
        assert listed(top_rows(query * factor, [[(0, codes)]], 3)) == expected
    for bad in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="query 1 is zero, or not finite"):
            top_rows(unit_rows(torch.cat([query, torch.full((1, 16), bad)])), {0: codes}.items(), 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_code_is_its_number(dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8)[:, None]
    known = ~codes.view(torch.float8_e4m3fn).float().isnan()
    assert torch.equal(
        code_values(codes, "float8_e4m3fn", dtype)[known].double(), codes.view(torch.float8_e4m3fn).double()[known]
    )
    assert torch.equal(code_values(codes, "int8", dtype)[1:, 0].double(), torch.arange(-127, 128).double())


@settings(max_examples=40, deadline=None)
@given(worlds(), st.data())
def test_excluded_rows_are_found_by_no_search(
    world: tuple[torch.Tensor, dict[int, QuantizedLayer]], data: st.DataObject
) -> None:
    """What remains is what brute force finds without them, for any k, though excluded rows may be the best."""
    queries, layers = world
    excluded: dict[int, np.ndarray] = {}
    for layer, codes in layers.items():
        rows = data.draw(st.sets(st.integers(0, len(codes) - 1), max_size=len(codes)))
        excluded[layer] = np.array(sorted(rows), np.int64)
    left = sum(len(codes) - len(excluded[layer]) for layer, codes in layers.items())
    if not left:
        return
    k = data.draw(st.integers(1, left))
    everything = oracle(queries, layers, sum(map(len, layers.values())))
    expected = [[found for found in line if found[2] not in excluded[found[1]]][:k] for line in everything]
    with_excluded = {layer: replace(codes, excluded=excluded[layer]) for layer, codes in layers.items()}
    with mock.patch.object(scan, "BLOCK", {"cpu": (2**12, 64)}):
        assert listed(top_rows(queries, [list(with_excluded.items())], k)) == expected
