"""The benchmarks run, and what they compare is the same work; how long it takes is nobody's business here."""

from __future__ import annotations

import pkgutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import analysis, gpu, large_search, limits, recall, scaling_tasks, viewer, viewer_run
from benchmarks.phrases import make_tokenizer, make_words, phrases, save_model
from lenscore.statistics.sources import read_sources
from lenscore.viewer.folder import write_viewer
from lenscore.viewer.shown_models import model_of_run
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder


def test_phrases_are_reproducible_and_have_the_published_statistics():
    words = make_words()
    assert len(set(words)) == 26_862
    assert list(phrases(100, 3, words)) == list(phrases(60_000, 3, words))[:100]
    some = list(phrases(5_000, 0, words))
    tokens = make_tokenizer(words)(some)["input_ids"]
    assert all(len(ids) == 1 + len(text.split()) for ids, text in zip(tokens, some, strict=True))
    assert 6.8 < np.mean([len(text.split()) for text in some]) < 7.2


def test_the_limit_is_the_forward_pass_of_exactly_what_a_worker_forwards(tmp_path):
    model = save_model(tmp_path / "model", dim=16)
    extraction = limits.Extraction(tmp_path, model, list(phrases(300)), rows_per_shard=256, layers="1,3")
    states = []
    extraction._bare.layers[-1].register_forward_hook(lambda *_: states.append(1))
    extraction.forward()
    assert len(extraction._bare.layers) == 3
    assert len(states) == len(extraction._batches)
    assert set(extraction.stages()) == {*limits.STAGES, "all"}


def test_scaling_tasks(tmp_path):
    assert scaling_tasks.store(tmp_path / "store", 3_000)["bytes_a_row"] > scaling_tasks.DIM
    assert scaling_tasks.loop(tmp_path / "loop", 30)["each"] > 0


@pytest.mark.parametrize("encoding", ["float8_e4m3fn", "int8"])
def test_the_layer_of_a_large_search_is_one_of_unit_vectors(encoding, tmp_path, capsys):
    layer = large_search.random_layer(2000, 256, encoding)
    assert 0.95 < layer.decoded(0, 2000).norm(dim=1).mean() < 1.05
    large_search.in_memory(2000, 256, 3, encoding, runs=1)
    large_search.streamed(tmp_path, 40_000, 64, [3, 70], runs=1, cold=False)
    assert capsys.readouterr().out.count("| streamed, an eighth in memory, s |") == 1


def test_recall_is_the_share_of_the_nearest_states_that_a_search_finds(tmp_path):
    states = recall.States(save_model(tmp_path, dim=32), "0,2,5", torch.float32, list(phrases(400)))
    assert states.layers == list(states.rows) == [2, 5]
    lines = recall.measure(states, states, 40)
    assert [line[0] for line in lines] == [2, 5, "least", "bytes a row / width", "rows, queries"]
    assert lines[2][3] == "1.0000"  # float16
    assert lines[3][1:] == ["2.000", "2.000", "3.000"]  # six outliers, scale and norm take as much as the codes
    kept, asked = recall.usual(states.rows), recall.usual(states.queries)[:7]
    rows, queries = states.rows[2][kept], states.queries[2][asked]
    nearest = torch.nn.functional.cosine_similarity(queries[:, None].double(), rows[None].double(), dim=2).argsort()
    truth = nearest[:, -5:]
    truth[0] = nearest[0, :5]  # the farthest: none of them is found
    assert recall.recalls(truth, recall.coded(rows, "float16"), queries).tolist() == [0.0] + [1.0] * 6


def test_the_benchmark_of_analyze_measures_a_whole_shard_and_functions_that_exist(tmp_path):
    found = analysis.measure(tmp_path / "run", images=10, layers=2, grid=3, seconds=0.0)
    results = LensResults.open(RunFolder.open(tmp_path / "run").path, allow_incomplete=True)
    assert (results.lenses, results.layers, results.top_k) == (analysis.LENSES, (0, 1), analysis.TOP_K)
    table = pq.read_table(tmp_path / "run/results/part-00000.parquet")
    assert len(table) == 10 * 9 * 2 * len(analysis.LENSES)
    assert found["bytes"] == sum(file.stat().st_size for file in (tmp_path / "run").glob("*/part-00000.parquet"))
    assert all(callable(pkgutil.resolve_name(name)) for name in analysis.STEPS.values())


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_a_cpu(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu", "--small", "--device", "cpu", "--phrases", "300", "--runs", "1"])
    threads = torch.get_num_threads()
    assert gpu.main() == 0
    torch.set_num_threads(threads)
    shown = capsys.readouterr().out
    assert all(f"### {title}" in shown for title in ("extract", "search", "analysis"))
    assert "1 of 1 shards were done" in shown


def test_the_viewer_benchmark_measures_what_a_browser_shows(browser, tmp_path):
    size = viewer_run.Size(images=8, grid=6, vocabulary=20_000, sentences=50, images_per_shard=4)
    _, judged = viewer_run.make_run(tmp_path / "run", size)
    models = [model_of_run(source) for source in read_sources([judged]).analyses]
    index = write_viewer(tmp_path / "viewer", models, size.images)
    weights = dict(viewer.weights(index.parent, models[0].folder))
    assert weights["whole viewer"] > weights["whole word index"] > weights["vocabulary, read with the first search"]
    rows = viewer.timings(browser, index, models[0].folder)
    assert len(rows) == 9
    assert all(0 < median <= high for _, median, high, _ in rows)
