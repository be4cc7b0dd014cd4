"""Rows that are divided among devices, and streamed through them, are found as if one device held them all."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.synthetic_store import LAYER, write_store
from lenscore.index import device_shares, exact_search
from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.device_shares import STREAMED_PARTS
from lenscore.index.quantized_layer import QuantizedLayer
from lenscore.index.topk import TopK, merge
from storage_layouts.errors import InputError
from storage_layouts.quantize import choose_outlier_dims, encode
from storage_layouts.row_pieces import RowPieces


def coded(states: torch.Tensor, encoding: str, excluded: list[int]) -> QuantizedLayer:
    dims = choose_outlier_dims(states, 2)
    return QuantizedLayer(encode(states, encoding, dims), encoding, dims, torch.tensor(excluded, dtype=int).numpy())


def same(left: TopK, right: TopK) -> bool:
    return all(map(torch.equal, left, right))


@st.composite
def indices(draw: st.DrawFn) -> tuple[dict[int, QuantizedLayer], torch.Tensor]:
    """Layers with many equal rows, some of them excluded, whole or in pieces; and queries."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rows, dim = draw(st.integers(1, 200)), draw(st.integers(4, 20))
    encoding = draw(st.sampled_from(["float8_e4m3fn", "int8", "float16", "float32"]))
    kinds, layers = torch.randn(max(1, rows // draw(st.sampled_from([1, 8]))), dim, generator=generator), {}
    for layer in draw(st.lists(st.integers(0, 40), min_size=1, max_size=3, unique=True)):
        states = kinds[torch.randint(len(kinds), (rows,), generator=generator)]
        excluded = draw(st.sets(st.integers(0, rows - 1), max_size=rows // 2))
        codes = coded(states, encoding, sorted(excluded))
        if draw(st.booleans()):
            e = codes.encoded
            pieces = RowPieces(e.codes.split(draw(st.integers(1, rows))))
            codes = QuantizedLayer(
                type(e)(pieces, e.outliers, e.scale, e.norm), encoding, codes.outlier_dims, codes.excluded
            )
        layers[layer] = codes
    return layers, kinds[:7] + draw(st.sampled_from([0.0, 0.1])) * torch.randn(kinds[:7].shape, generator=generator)


@settings(max_examples=40, deadline=None)
@given(
    index=indices(),
    k=st.integers(1, 50),
    share=st.floats(0, 1.2),
    devices=st.integers(1, 3),
    together=st.booleans(),
    data=st.data(),
)
def test_limits_and_devices_change_no_bit(
    index: tuple[dict[int, QuantizedLayer], torch.Tensor],
    k: int,
    share: float,
    devices: int,
    together: bool,
    data: st.DataObject,
) -> None:
    layers, queries = index
    asked = data.draw(st.lists(st.sampled_from(sorted(layers)), min_size=1, unique=True))
    k = min(k, sum(layers[layer].candidates for layer in asked))
    whole = ContextualIndex(layers)
    with mock.patch.object(ContextualIndex, "_small_index", return_value=None):
        expected = whole.top(queries, k, asked)
    size = sum(codes.bytes for codes in layers.values())
    steps = max(codes.row_step * -(-codes.bytes // len(codes)) for codes in layers.values())
    limit = max(int(share * size), STREAMED_PARTS * (steps + 1))
    at_a_time, prepared = (1024, 8192) if together else (2, 4)
    sizes = {"QUERIES": {"cpu": at_a_time}, "QUERIES_TOGETHER": prepared, "MOST_PENDING": 3}
    with mock.patch.multiple(exact_search, **sizes):
        divided = ContextualIndex(layers).to(["cpu"] * devices, limit)
        assert same(divided.top(queries, k, asked), expected)
        assert same(divided.top(queries, k, asked), expected)
    alone = [ContextualIndex({layer: layers[layer]}) for layer in asked]  # as machines that have a layer each
    tops = [one.top(queries, min(k, one.candidates)) for one in alone if one.candidates]
    assert same(merge(tops, k), expected)
    words = [{layer: [row] for layer in layers} for row in range(0, len(next(iter(layers.values()))), 9)]
    words = [word for word in words if any(whole.candidate_rows(*entry) for entry in word.items())]
    for some in ([], words):
        for found, as_whole in zip(divided.best_rows(queries, some), whole.best_rows(queries, some), strict=True):
            assert found.shape == (len(some), len(queries))
            assert torch.equal(found, as_whole)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.5, -0.0, 0.0, 1.0]), st.integers(0, 3), st.integers(0, 99)),
        min_size=1,
        max_size=40,
        unique_by=lambda found: found[1:],
    ),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_lists_of_rows_merge_to_the_order_of_score_layer_and_row(
    found: list[tuple[float, int, int]], k: int, parts: int
) -> None:
    lists = [found[number::parts] for number in range(parts)]
    tops = []
    for some in lists:
        best = sorted(some, key=lambda one: (-one[0], *one[1:]))[:k]
        columns = list(zip(*best, strict=True)) or [(), (), ()]
        kinds = (torch.int32, torch.float32, torch.int16)
        tops.append(TopK(*(torch.tensor([columns[i]], dtype=kind) for i, kind in zip((2, 0, 1), kinds, strict=True))))
    top = merge(tops, k)
    merged = zip(*(part[0].tolist() for part in (top.scores, top.contextual_layers, top.ids)), strict=True)
    assert list(merged) == sorted(found, key=lambda one: (-one[0], *one[1:]))[:k]


def test_a_store_is_streamed_from_its_files(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", 20_000, 40, 1024)
    whole = ContextualIndex.from_store(store)
    queries = torch.randn(20, 40, generator=torch.Generator().manual_seed(1))
    expected = whole.top(queries, 7)
    for devices, limit in (("cpu", 300_000), (["cpu", "cpu"], 300_000), (["cpu", "cpu"], None)):
        index = ContextualIndex.from_store(store, device=devices, memory=limit)
        assert index.streams is (limit is not None)
        assert same(index.top(queries, 7), expected)
        assert [n.caption for n in index.search(queries[0])[0]] == [n.caption for n in whole.search(queries[0])[0]]
        assert torch.equal(
            index.unit_vectors(LAYER, torch.tensor([4999, 0])), whole.unit_vectors(LAYER, torch.tensor([4999, 0]))
        )


def test_too_little_memory_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", 20_000, 40, 1024)
    with pytest.raises(
        InputError, match=r"index-memory: found 9,999 bytes for cpu, expected at least ([\d,]+), for 3"
    ) as found:
        ContextualIndex.from_store(store, memory=9999)
    least = int(str(found.value).split("at least ")[1].split(", for")[0].replace(",", ""))
    ContextualIndex.from_store(store, memory=least)
    with pytest.raises(InputError, match="index-memory"):
        ContextualIndex.from_store(store, memory=least - 1)


def test_an_error_of_a_device_is_raised() -> None:
    index = ContextualIndex({3: coded(torch.randn(50, 8), "int8", [])}).to(["cpu", "cpu"], 400)
    assert index.streams
    with mock.patch.object(device_shares, "_on_device", side_effect=MemoryError("no room")), pytest.raises(MemoryError):
        index.top(torch.randn(2, 8), 1)
