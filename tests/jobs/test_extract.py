"""The extract stage from its command line to the bytes of the store."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoTokenizer

from benchmarks.chaos import differences
from jobs.extract_job import ExtractJob
from jobs.worker import main as worker_main
from launch import extract
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.quantize import PARTS, decode_unit
from storage_layouts.verification import verify
from tests.conftest import WORDS, make_llama, make_tokenizer

# Relative to a state's length, with rounding errors spread evenly: a float8 of three mantissa bits is off by up to
# 1/16 of each value, an int8 by up to 1/254 of the largest of 24 values, a float16 by up to 2^-11 of each.
TOLERANCE = {"float8_e4m3fn": 1 / 16 / 3**0.5, "int8": 24**0.5 / 254 / 3**0.5, "float16": 2**-11}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(300)))
    return path


def flags(model, corpus, out, *more):
    usual = ["--per-token", "6", "--workers", "1"]
    return ["--model", str(model), "--corpus", str(corpus), "--out", str(out), *usual, *more]


@pytest.fixture(scope="module")
def exact_states(corpus):
    """What the model computes in float64, by sentence id: one tensor [tokens, dim] a layer."""
    tokenizer, exact = make_tokenizer(), make_llama().double()

    @cache
    def states(sentence_id):
        ids = tokenizer(corpus.read_text().split("\n")[sentence_id], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return [layer[0] for layer in exact(input_ids=ids, output_hidden_states=True).hidden_states]

    return states


@pytest.mark.parametrize("encoding", TOLERANCE)
def test_stored_rows_are_the_models_hidden_states(tiny_llm_folder, corpus, exact_states, tmp_path, encoding):
    out = tmp_path / "s.zarr"
    assert extract.main(flags(tiny_llm_folder, corpus, out, "--encoding", encoding, "--rows-per-shard", "50")) == 0
    store = EmbeddingStore.open(out)
    assert store.layers == (1, 2, 3)
    rows = store.row_table().to_pylist()
    assert len(rows) == store.rows > 100
    expected = {layer: [] for layer in store.layers}
    for row in rows:
        states = exact_states(row["sentence_id"])
        for layer in store.layers:
            expected[layer].append(states[layer][row["position"]])
    for layer in store.layers:
        encoded = store.read_layer(layer).torch()
        found = decode_unit(encoded, encoding, store.outlier_dims(layer)).double() * encoded.norm[:, None].double()
        exactly = torch.stack(expected[layer])
        error = (found - exactly).norm(dim=1) / exactly.norm(dim=1)
        assert error.max() < TOLERANCE[encoding]


def test_bytes_do_not_depend_on_the_number_of_workers(tiny_llm_folder, corpus, tmp_path):
    for workers in ("1", "3"):
        more = ["--workers", workers, "--rows-per-shard", "20"]
        assert extract.main(flags(tiny_llm_folder, corpus, tmp_path / workers, *more)) == 0
    assert differences(tmp_path / "1", tmp_path / "3") == []


def test_bytes_do_not_depend_on_the_order_of_the_shards(tiny_llm_folder, corpus, tmp_path):
    """Nor on which shard the worker expects next, whose turn then comes earlier, later or never."""
    stores = []
    for name, order in (("up", [0, 1, 2, 3, 4, 5]), ("mixed", [3, 5, 1, 1, 0, 4, 2]), ("down", [5, 4, 3, 2, 1, 0])):
        job = ExtractJob(str(tiny_llm_folder), (corpus,), tmp_path / name, per_token=6, rows_per_shard=20)
        run = job.open_run()
        job.plan(run, lambda message: None)
        worker = job.open_worker(run, "cpu")
        plan = run.require_plan()
        rest = range(6, plan.shard_count)
        for index in [*order, *rest]:
            run.write_receipt(worker.run(plan.shard(index)))
        stores.append(run.path)
    assert differences(stores[0], stores[1]) == []
    assert differences(stores[0], stores[2]) == []


def test_the_llm_inside_a_vlm_gives_the_same_store(tiny_llm_folder, tiny_vlm_folder, corpus, tmp_path):
    for name, model in (("llm", tiny_llm_folder), ("vlm", tiny_vlm_folder)):
        assert extract.main(flags(model, corpus, tmp_path / name)) == 0
    llm, vlm = (EmbeddingStore.open(tmp_path / name) for name in ("llm", "vlm"))
    assert llm.row_table().equals(vlm.row_table())
    for layer in llm.layers:
        np.testing.assert_array_equal(llm.read_layer(layer).codes, vlm.read_layer(layer).codes)


def test_separate_layers_hold_the_same_rows_in_more_files(tiny_llm_folder, corpus, tmp_path):
    """As earlier versions wrote them; a worker goes on in the layout that was planned."""
    for name, more in (("shared", ()), ("separate", ("--separate-layers",))):
        assert extract.main(flags(tiny_llm_folder, corpus, tmp_path / name, "--rows-per-shard", "50", *more)) == 0
    receipt = tmp_path / "separate" / "receipts" / "00001.json"
    before = receipt.read_bytes()
    receipt.unlink()
    assert worker_main([str(tmp_path / "separate"), "--device", "cpu"]) == 0
    assert receipt.read_bytes() == before
    shared, separate = (EmbeddingStore.open(tmp_path / name) for name in ("shared", "separate"))
    assert "separate_layers" not in shared.run.config  # so runs of earlier versions stay the same
    for layer in shared.layers:
        ours, theirs = shared.read_layer(layer), separate.read_layer(layer)
        assert all(np.array_equal(getattr(ours, name), getattr(theirs, name)) for name in PARTS)
        assert shared.outlier_dims(layer).tolist() == separate.outlier_dims(layer).tolist()
    shards, layers = len(shared.run.done()), len(shared.layers)
    for store, arrays in ((shared, 4), (separate, 4 * layers)):
        assert len(list((store.path / "layers").rglob("c.*"))) == shards * arrays
        assert verify(store.path).problems == []


def test_the_row_table_does_not_depend_on_the_shards(tiny_llm_folder, corpus, tmp_path):
    tables = []
    for size in (1, 7, 64, 2048):
        job = ExtractJob(str(tiny_llm_folder), (corpus,), tmp_path / str(size), per_token=3, rows_per_shard=size)
        run = job.open_run()
        job.plan(run, lambda message: None)
        store = EmbeddingStore.open(run.path, allow_incomplete=True)
        parts = [store.rows_of(shard) for shard in run.require_plan().shards()]
        assert all(len(part) == size for part in parts[:-1])
        assert pa.concat_tables(parts).equals(store.row_table())
        tables.append(store.row_table())
    assert all(table.equals(tables[0]) for table in tables)


def test_sentences_cut_at_the_token_limit_are_counted_and_told(tiny_llm_folder, tmp_path):
    lines = [" ".join(WORDS[:length]) for length in (3, 7, 8, 9, 12, 15)]
    (tmp_path / "corpus.txt").write_text("\n".join(lines))
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm_folder)
    lengths = [len(tokenizer(line).input_ids) for line in lines]
    for limit in (8, 200):
        cut = sum(length > limit for length in lengths)
        job = ExtractJob(str(tiny_llm_folder), (tmp_path / "corpus.txt",), tmp_path / f"{limit}.zarr", max_tokens=limit)
        run, said = job.open_run(), []
        job.plan(run, said.append)
        facts = run.require_plan().facts
        assert facts["sentences_cut"] == cut
        told = [line for line in said if f"sentences cut after {limit:,} tokens: {cut}" in line]
        assert bool(told) == bool(cut) == any("sentences cut" in note for note in facts["notes"])
    assert sum(length > 8 for length in lengths) > 1
