"""Attention sinks: rows of massive norm are counted and recorded, and no search finds them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.extract_worker import _not_first
from launch import convert, extract
from lenscore.index.contextual_index import ContextualIndex
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import CorruptError
from storage_layouts.files import json_bytes
from tests.conftest import WORDS, save_llama_with_sink

SINK = WORDS[3]


@pytest.fixture(scope="module")
def model_with_a_sink(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama_with_sink(tmp_path_factory.mktemp("sink"), SINK)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(2)
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(200)))
    return path


def extracted(model: Path, corpus: Path, out: Path, *more: str) -> EmbeddingStore:
    flags = ["--model", str(model), "--corpus", str(corpus), "--out", str(out), "--per-token", "8"]
    assert extract.main([*flags, "--rows-per-shard", "32", "--workers", "1", *more]) == 0
    return EmbeddingStore.open(out)


@pytest.fixture(scope="module")
def store(model_with_a_sink: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    """To be read only."""
    return extracted(model_with_a_sink, corpus, tmp_path_factory.mktemp("sinks") / "store")


def test_no_search_finds_a_sink(model_with_a_sink, corpus, tmp_path, capfd) -> None:
    store = extracted(model_with_a_sink, corpus, tmp_path / "store")
    tokens = np.array(store.row_table(["token"])["token"].to_pylist())
    is_sink = tokens == SINK
    assert store.sinks.tolist() == np.flatnonzero(is_sink).tolist() != []
    assert f"extract: {is_sink.sum()} of {store.rows} rows are attention sinks (massive norm)" in capfd.readouterr().err
    index = ContextualIndex.from_store(store)
    queries = torch.cat([block for layer in store.layers for block in index.blocks(layer)])
    # Every row finds itself, but for the sinks, which find other words; also if all rows are wanted.
    wanted = int((~is_sink).sum()) * len(store.layers)
    for k in (1, 5, wanted):
        assert not np.isin(index.top(queries, k).ids.numpy(), store.sinks).any()
    assert len(index.search(queries[0], top_k=10**6)[0]) == wanted
    nearest = index.top(queries, 1).scores.numpy()[:, 0].reshape(len(store.layers), -1)
    assert (nearest[:, ~is_sink] > 0.98).all()  # stored rows are rounded


def test_sinks_are_kept_if_asked(store, model_with_a_sink, corpus, tmp_path, capfd) -> None:
    capfd.readouterr()
    kept = extracted(model_with_a_sink, corpus, tmp_path / "kept", "--keep-sinks")
    assert "attention sink" not in capfd.readouterr().err
    assert kept.sinks.tolist() == []
    index = ContextualIndex.from_store(kept)
    layer = kept.layers[0]
    rows = np.flatnonzero(np.array(kept.row_table(["token"])["token"].to_pylist()) == SINK)
    found = index.top(torch.cat(list(index.blocks(layer)))[rows], 1, [layer])
    assert np.isin(found.ids.numpy(), rows).all()
    # Nothing else differs: the rows, and what is stored of each.
    for name in ("codes", "outliers", "scale", "norm"):
        assert np.array_equal(getattr(kept.read_layer(layer), name), getattr(store.read_layer(layer), name))


def test_the_median_is_not_that_of_sinks_though_texts_are_short() -> None:
    """First tokens may be most of the rows, and all of them sinks."""
    assert _not_first(np.array([0, 0, 0, 2, 5, 1, 0])).tolist() == [3, 4]
    assert _not_first(np.array([0, 0, 1, 0])).tolist() == [2]
    assert _not_first(np.array([0, 0])).tolist() == [0, 1]


def test_a_store_whose_sinks_are_not_known_is_damaged(store, tmp_path) -> None:
    """As if a worker of an older version had written a shard, or the calibration."""
    store = EmbeddingStore.open(shutil.copytree(store.path, tmp_path / "store"))
    for facts, found in (({}, "sinks = None"), ({"sinks": [0]}, r"sinks = \[0\]")):
        damaged = EmbeddingStore.open(store.path)
        last = max(damaged._reader.receipts)
        damaged._reader.receipts[last] = dataclasses.replace(damaged._reader.receipts[last], facts=facts)
        with pytest.raises(CorruptError, match=found):
            _ = damaged.sinks
    file = store.path / "outlier_dims" / "01.json"
    content = {name: value for name, value in json.loads(file.read_bytes()).items() if name in ("layer", "dims")}
    for one in (store.path / "receipts").glob("*.json"):
        one.unlink()
    file.write_bytes(json_bytes(content))
    with pytest.raises(CorruptError, match="sink_norm"):
        EmbeddingStore.open(store.path, allow_incomplete=True).sink_norm(1)


def test_a_cache_says_that_it_holds_the_sinks(store, tmp_path, capfd) -> None:
    assert convert.main([str(store.path), str(tmp_path / "cache")]) == 0
    assert f"{len(store.sinks)} rows are attention sinks: searches of a cache find them" in capfd.readouterr().out


def test_the_limit_is_a_multiple_of_the_median_norm(store) -> None:
    norms = np.stack([store.read_layer(layer).norm for layer in store.layers])
    first = norms[:, :32][:, store.row_table(["position"])["position"].to_numpy()[:32] >= 2]  # the first shard
    limits = 20 * np.sort(first)[:, (first.shape[1] - 1) // 2]  # torch's median is the lower one
    # The states of the calibration were batched otherwise, so they may differ by rounding.
    assert np.allclose([store.sink_norm(layer) for layer in store.layers], limits, rtol=1e-4)
    assert store.sinks.tolist() == np.flatnonzero((norms >= limits[:, None]).any(axis=0)).tolist()
