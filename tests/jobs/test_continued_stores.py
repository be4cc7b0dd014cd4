"""Stores that grow: the same rows as one extract of everything, with the bytes that are there already."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.chaos import data_files, differences
from jobs.extract_job import ExtractJob
from jobs.worker import WorkerOptions, run_worker
from lenscore.contexts.contextual_states import RowReader
from lenscore.index.contextual_index import ContextualIndex
from storage_layouts.cache_conversion import cache_to_store, store_to_cache
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import CorruptError, IncompleteError, InputError
from storage_layouts.quantize import PARTS, decode_unit
from storage_layouts.verification import verify
from tests.conftest import WORDS, make_llama, make_tokenizer, save_llama_with_sink

LAYERS = "1,2"
SINK = WORDS[3]


def write_corpus(path: Path, seed: int, sentences: int = 120) -> Path:
    rng = np.random.default_rng(seed)
    path.write_text("\n".join(" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(sentences)))
    return path


def computed(job: ExtractJob, shards: int = 10**9) -> EmbeddingStore:
    """The store of a job, of which a worker computes some shards."""
    run = job.open_run()
    job.plan(run, lambda message: None)
    report = run_worker(run.path, WorkerOptions("cpu"), 0, 1, stop=lambda: len(run.done()) >= shards)
    if report.refused:
        raise InputError(report.refused)
    assert not report.broken
    return EmbeddingStore.open(run.path, allow_incomplete=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with attention sinks."""
    return save_llama_with_sink(tmp_path_factory.mktemp("model"), SINK)


class Stores:
    """Extracts of two corpora, and of both one after the other; to be read only."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.corpora = [write_corpus(folder / f"{seed}.txt", seed) for seed in (1, 2)]
        self.usual = {"layers": LAYERS, "per_token": 6, "rows_per_shard": 32}
        self.model, self.folder = str(model), folder
        self.first, self.second = (computed(self.job((corpus,), corpus.stem)) for corpus in self.corpora)
        self.whole = computed(self.job(tuple(self.corpora), "whole"))

    def job(self, corpus: tuple[Path, ...], name: str | Path, **settings: object) -> ExtractJob:
        return ExtractJob(self.model, corpus, self.folder / name, **self.usual | settings)

    @property
    def growing(self) -> dict[str, ExtractJob]:
        return {
            "corpus": self.job((self.corpora[1],), "", add=(self.first.path,)),
            "merge": self.job((), "", add=(self.first.path, self.second.path)),
        }


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Stores:
    return Stores(tmp_path_factory.mktemp("stores"), model)


def grown(stores: Stores, how: str, out: Path, **settings: object) -> EmbeddingStore:
    return computed(dataclasses.replace(stores.growing[how], out=out, **settings))


def contexts(store: EmbeddingStore) -> list[tuple[int, int, str]]:
    """Token, position and text of each row."""
    rows = store.row_table().to_pydict()
    return list(zip(rows["token_id"], rows["position"], store.sentence_texts(rows["sentence_id"]), strict=True))


def decoded(store: EmbeddingStore, layer: int) -> torch.Tensor:
    return decode_unit(store.read_layer(layer), store.encoding, store.outlier_dims(layer))


@pytest.mark.parametrize("how", ["corpus", "merge"])
@pytest.mark.parametrize(
    "other",
    [{}, {"rows_per_shard": 7, "separate_layers": True}, {"rows_per_shard": 1024, "batch_tokens": 8}],
    ids=["as before", "small shards, separate layers", "one shard"],
)
def test_a_grown_store_is_the_store_of_all_corpora(stores, tmp_path, how, other) -> None:
    before = [data_files(store.path) for store in (stores.first, stores.second)]
    store = grown(stores, how, tmp_path / "grown", **other)
    assert before == [data_files(one.path) for one in (stores.first, stores.second)]
    assert verify(store.path).problems == []
    assert store.row_table().equals(stores.whole.row_table())
    assert store.sentences().equals(stores.whole.sentences())
    assert store.sinks.tolist() == stores.whole.sinks.tolist() != []
    facts, of_whole = store.run.require_plan().facts, stores.whole.run.require_plan().facts
    assert all(facts[name] == of_whole[name] for name in of_whole if name != "notes")
    sources = [stores.first, *([stores.second] if how == "merge" else [])]
    places = [{context: row for row, context in list(enumerate(contexts(source)))[::-1]} for source in sources]
    copied = 0
    for layer in store.layers:
        ours, one_extract = decoded(store, layer), decoded(stores.whole, layer)
        theirs = [decoded(source, layer) for source in sources]
        for row, context in enumerate(contexts(store)):
            owner = next((i for i, rows in enumerate(places) if context in rows), None)
            if owner is not None:
                assert torch.equal(ours[row], theirs[owner][places[owner][context]])
                copied += 1
        # The outlier dimensions of one extract may be others, so its codes are rounded otherwise.
        assert (ours * one_extract).sum(dim=1).min() > 0.995
        norms = store.read_layer(layer).norm, stores.whole.read_layer(layer).norm
        np.testing.assert_allclose(*norms, rtol=1e-5)
    rows = store.rows if how == "merge" else facts["copied_rows"]
    assert copied == rows * len(store.layers) > 0
    assert how == "merge" or rows < store.rows


def test_codes_are_those_of_the_store_where_outlier_dimensions_are(stores, tmp_path) -> None:
    store = grown(stores, "corpus", tmp_path / "grown")
    places = {context: row for row, context in enumerate(contexts(stores.first))}
    rows = [(row, places[context]) for row, context in enumerate(contexts(store)) if context in places]
    ours, theirs = np.array(rows).T
    for layer in store.layers:
        assert store.outlier_dims(layer).tolist() == stores.first.outlier_dims(layer).tolist()
        assert store.sink_norm(layer) == stores.first.sink_norm(layer)
        for name in PARTS:
            found, expected = (getattr(one.read_layer(layer), name) for one in (store, stores.first))
            assert np.array_equal(found[ours], expected[theirs])


def test_only_new_rows_are_computed(stores, tmp_path, monkeypatch) -> None:
    forwarded: list[int] = []
    batches = RowReader.batches
    monkeypatch.setattr(
        RowReader, "batches", lambda self, rows, texts: forwarded.append(len(rows)) or batches(self, rows, texts)
    )
    store = grown(stores, "corpus", tmp_path / "grown")
    assert sum(forwarded) == store.rows - store.run.require_plan().facts["copied_rows"]

    def no_model(*arguments: object) -> None:
        raise AssertionError("loaded a model for nothing")

    monkeypatch.setattr("jobs.extract_job.text_model_of", no_model)
    assert grown(stores, "merge", tmp_path / "merged").run.is_complete()
    memory = {how: job.worker_bytes() for how, job in stores.growing.items()}
    assert memory["merge"] is None
    assert memory["corpus"] > 0


@pytest.mark.parametrize("how", ["corpus", "merge"])
def test_searches_find_the_rows_of_one_extract(stores, tmp_path, how) -> None:
    """Compared with a plain product over decoded rows; and with a store that one extract made, but for rounding."""
    store = grown(stores, how, tmp_path / "grown")
    index, other = ContextualIndex.from_store(store), ContextualIndex.from_store(stores.whole)
    torch.manual_seed(0)
    queries = torch.randn(50, store.dim)
    found, expected = index.top(queries, 5), other.top(queries, 5)
    every = torch.cat([decoded(store, layer) for layer in store.layers])
    cosines = torch.nn.functional.normalize(queries) @ every.T
    cosines[:, np.concatenate([store.sinks + i * store.rows for i in range(len(store.layers))])] = -1
    torch.testing.assert_close(found.scores, cosines.topk(5).values)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=0.03)
    assert (found.ids[:, 0] == expected.ids[:, 0]).float().mean() > 0.8


@pytest.mark.parametrize("separate", [False, True])
def test_added_layers_are_those_of_one_extract_to_the_byte(stores, tmp_path, separate) -> None:
    layout = {"separate_layers": separate}
    both = stores.job((stores.corpora[0],), tmp_path / "both", layers="1,2,3", **layout)
    more = stores.job((), tmp_path / "more", layers="3", add=(stores.first.path,), **layout)
    found, expected = (data_files(computed(job).path) for job in (more, both))
    not_equal = {name for name in expected if found[name] != expected[name] and not name.startswith("receipts/")}
    assert not_equal == {"run.json", "plan.json", "zarr.json"}  # of which this one names the corpora
    assert found.keys() == expected.keys()
    for receipts in zip(
        *(EmbeddingStore.open(tmp_path / name).run.receipts() for name in ("more", "both")), strict=True
    ):
        assert receipts[0] == receipts[1]


def test_sentences_and_layers_at_once(stores, tmp_path) -> None:
    store = grown(stores, "corpus", tmp_path / "grown", layers="3")
    whole = computed(stores.job(tuple(stores.corpora), tmp_path / "whole", layers="1,2,3"))
    assert store.layers == (1, 2, 3)
    assert contexts(store) == contexts(whole)
    for layer in store.layers:
        assert (decoded(store, layer) * decoded(whole, layer)).sum(dim=1).min() > 0.995
    assert store.sinks.tolist() == whole.sinks.tolist()


def test_a_store_grows_again(stores, tmp_path) -> None:
    third = write_corpus(tmp_path / "third.txt", 3)
    store = grown(stores, "corpus", tmp_path / "grown")
    again = computed(stores.job((third,), tmp_path / "again", add=(store.path,)))
    whole = computed(stores.job((*stores.corpora, third), tmp_path / "whole"))
    assert again.row_table().equals(whole.row_table())


def test_shares_of_corpora(stores, tmp_path) -> None:
    half = [f"{corpus}=0.5" for corpus in stores.corpora]
    first = computed(stores.job((half[0],), tmp_path / "first"))
    store = computed(stores.job((half[1],), tmp_path / "grown", add=(first.path,)))
    whole = computed(stores.job(tuple(half), tmp_path / "whole"))
    assert contexts(store) == contexts(whole) != contexts(stores.whole)


@pytest.mark.parametrize("how", ["corpus", "merge"])
@pytest.mark.parametrize("done", [0, 1, 3])
def test_bytes_do_not_depend_on_interruptions(stores, tmp_path, how, done) -> None:
    undisturbed = grown(stores, how, tmp_path / "undisturbed")
    job = dataclasses.replace(stores.growing[how], out=tmp_path / "again")
    store = computed(job, shards=done)
    assert len(store.run.done()) == done < store.run.require_plan().shard_count
    computed(job)
    assert differences(tmp_path / "again", undisturbed.path) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_token": 5}, "--per-token: found 5, but .* was made with 6; leave the flag out"),
        ({"encoding": "int8"}, "--encoding: found 'int8', but .* was made with 'float8_e4m3fn'"),
        ({"keep_sinks": True}, "--keep-sinks: found True, but .* was made with False"),
    ],
)
def test_other_settings_than_those_of_the_store_are_refused(stores, tmp_path, settings, message) -> None:
    with pytest.raises(InputError, match=message) as refused:
        grown(stores, "corpus", tmp_path / "grown", **settings)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "grown").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_token": 5}, ": per_token 5 and not 6; expected stores of one model and equal settings"),
        ({"seed": 1, "encoding": "int8"}, ": seed 1 and not 0, encoding int8 and not float8_e4m3fn;"),
        ({"layers": "1"}, ": layers 1 and not 1,2;"),
        ({"keep_sinks": True}, "keep_sinks True and not False, sink_ratio None and not 20.0;"),
    ],
)
def test_stores_that_differ_are_not_merged(stores, tmp_path, settings, message) -> None:
    other = computed(stores.job((stores.corpora[1],), tmp_path / "other", **settings))
    with pytest.raises(InputError, match=message) as refused:
        computed(stores.job((), tmp_path / "grown", add=(stores.first.path, other.path)))
    assert "\n" not in str(refused.value)


def test_another_model_is_refused(stores, tmp_path) -> None:
    make_llama(seed=7).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    model = {"model": str(tmp_path / "model")}
    other = computed(dataclasses.replace(stores.job((stores.corpora[1],), tmp_path / "other"), **model))
    with pytest.raises(InputError, match=r"other: differs from .*: weights [0-9a-f]{12} and not [0-9a-f]{12};"):
        computed(stores.job((), tmp_path / "grown", add=(stores.first.path, other.path)))
    # Of one folder to the next, only the weights differ: a worker sees it when it has loaded them.
    with pytest.raises(InputError, match=r"--model .*: has other weights \([0-9a-f]{12}\) than the model of"):
        grown(stores, "corpus", tmp_path / "grown", **model)
    make_tokenizer(WORDS[::-1]).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"--model .*: has tokenizer [0-9a-f]{12}, but"):
        grown(stores, "corpus", tmp_path / "grown2", **model)


def test_a_store_is_neither_given_twice_nor_written(stores, tmp_path) -> None:
    with pytest.raises(InputError, match="given twice"):
        computed(stores.job((), tmp_path / "grown", add=(stores.first.path, stores.first.path)))
    with pytest.raises(InputError, match="is a store to go on from, which is never changed"):
        stores.job((stores.corpora[1],), stores.first.path, add=(stores.first.path,))


def test_an_unfinished_store_is_waited_for(stores, tmp_path) -> None:
    unfinished = computed(stores.job((stores.corpora[0],), tmp_path / "begun"), shards=2)
    job = stores.job((stores.corpora[1],), tmp_path / "grown", add=(unfinished.path,))
    run = job.open_run()  # as with --after
    assert job.plans_on == "complete"
    with pytest.raises(IncompleteError, match="shards are missing"):
        job.plan(run, lambda message: None)


def test_a_store_that_is_replaced_or_damaged_is_named(stores, tmp_path) -> None:
    first = EmbeddingStore.open(shutil.copytree(stores.first.path, tmp_path / "first"))
    job = stores.job((), tmp_path / "grown", layers="3", add=(first.path,))
    computed(job, shards=1)
    file = next(path for path in sorted((first.path / "layers").rglob("c.*")) if "codes" in path.parts)
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    run = job.open_run()
    worker = job.open_worker(run, "cpu")
    with pytest.raises(CorruptError, match=f"{file}: .*; in {first.path}, delete receipts/00000.json and repeat"):
        worker.run(run.require_plan().shard(0))
    shutil.rmtree(first.path)
    shutil.copytree(stores.second.path, first.path)
    with pytest.raises(InputError, match="put that store back"):
        job.open_worker(run, "cpu")
    shutil.rmtree(first.path)
    with pytest.raises(InputError, match="first"):
        job.open_run()


def test_a_complete_store_needs_the_others_no_more(stores, tmp_path) -> None:
    shutil.copytree(stores.first.path, tmp_path / "first")
    store = computed(stores.job((), tmp_path / "grown", layers="3", add=(tmp_path / "first",)))
    shutil.rmtree(tmp_path / "first")
    assert verify(store.path).problems == []
    assert ContextualIndex.from_store(store.path).search(torch.ones(1, store.dim), top_k=1)


def test_a_converted_store_is_refused(stores, tmp_path) -> None:
    store_to_cache(stores.first.path, tmp_path / "cache")
    cache_to_store(tmp_path / "cache", tmp_path / "other")
    with pytest.raises(InputError, match=r"other: made by convert, so nobody knows"):
        stores.job((stores.corpora[1],), tmp_path / "grown", add=(tmp_path / "other",)).open_run()
