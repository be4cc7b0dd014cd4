"""The analyze stage on a tiny random LLaVA: what is stored is what brute force says, always with the same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from jobs.analyze_job import AnalyzeJob
from jobs.analyze_tables import ShardTables
from jobs.extract_job import ExtractJob
from jobs.work import work
from lenscore.analysis.engine import BatchResults
from lenscore.images.image_files import ImageFile
from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.topk import TopK
from lenscore.judging.candidates import CandidateWords
from lenscore.lenses import LENSES, LatentLens
from lenscore.models.loading import Vlm, load_vlm
from lenscore.reports.results_table import write_results_table
from lenscore.single_image.analysis import analyze_image
from lenscore.single_image.reading_table import reading_table
from lenscore.statistics.sources import read_sources
from lenscore.viewer.readings import RunReadings
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import InputError
from storage_layouts.quantize import decode_unit
from storage_layouts.results import LensResults
from storage_layouts.runs import Receipt, RunFolder
from storage_layouts.token_measures import EXPLAINED_NUMBERS
from tests.conftest import WORDS, make_llama, make_llava, make_processor, make_tokenizer
from tests.run_bytes import bytes_of

LENS_ORDER = ["latent", "logit", "embedding"]


def complete(job: Any, backwards: bool = False) -> RunFolder:
    """The whole stage in this process, as one worker."""
    run = job.open_run()
    job.plan(run, lambda message: None)
    if backwards:
        worker = job.open_worker(run, "cpu")
        for shard in run.missing()[::-1]:
            run.write_receipt(worker.run(shard))
    else:
        report = work(run, lambda: job.open_worker(run, "cpu"), "test")
        if report.refused:
            raise InputError(report.refused)
    run.require_complete()
    return run


@pytest.fixture(scope="module")
def store(tiny_llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(1)
    (folder / "corpus.txt").write_text("\n".join(" ".join(rng.choice(WORDS, rng.integers(2, 7))) for _ in range(60)))
    complete(ExtractJob(str(tiny_llm_folder), (folder / "corpus.txt",), folder / "s.zarr", rows_per_shard=64))
    return folder / "s.zarr"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures of noise and, in the middle of them, a file that is none."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(2)
    for i in range(7):
        size = (int(rng.integers(20, 60)), int(rng.integers(20, 60)), 3)
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "3-broken.png").write_bytes(b"not an image")
    return folder


@pytest.fixture(scope="module")
def job(tiny_vlm_folder: Path, store: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> AnalyzeJob:
    out = tmp_path_factory.mktemp("run") / "run"
    return AnalyzeJob(str(tiny_vlm_folder), images, out, store, images_per_shard=3, batch_size=2, layers="0,2,-1")


@pytest.fixture(scope="module")
def results(job: AnalyzeJob) -> LensResults:
    return LensResults.open(complete(job).path)


def brute_force(vlm: Vlm, store: EmbeddingStore, path: Path) -> dict[str, np.ndarray]:
    """Scores of every candidate in float64: lens -> [layers, patches, candidates]."""
    model, tokenizer = vlm.model.double(), vlm.tokenizer
    inputs = vlm.processor(images=[Image.open(path)], text=["<image> Describe this image."], return_tensors="pt")
    with torch.no_grad():
        hidden = model(**{**inputs, "pixel_values": inputs["pixel_values"].double()}, output_hidden_states=True)
        visual = (inputs["input_ids"][0] == 4).nonzero().flatten()
        states = torch.stack([hidden.hidden_states[layer][0, visual] for layer in (0, 2, 3)])
        logits = model.lm_head(vlm.decoder.norm(states)).numpy()
    units = torch.nn.functional.normalize(states, dim=-1)
    embeddings = torch.nn.functional.normalize(model.get_input_embeddings().weight.detach(), dim=-1)
    cosines = (units @ embeddings.T).numpy()
    rows = torch.cat([decode_unit(store.read_layer(la), store.encoding, store.outlier_dims(la)) for la in store.layers])
    no_text = [i for i in range(40) if i not in [tokenizer.get_vocab()[word] for word in WORDS]]
    logits[..., no_text] = cosines[..., no_text] = -np.inf
    return {"latent": (units @ rows.double().T).numpy(), "logit": logits, "embedding": cosines}


def test_every_lens_equals_brute_force_in_float64(
    results: LensResults, tiny_vlm_folder: Path, store: Path, images: Path
) -> None:
    opened = EmbeddingStore.open(store)
    assert (results.lenses, results.layers, opened.layers) == (tuple(LENS_ORDER), (0, 2, 3), (1, 2, 3))
    vlm = load_vlm(tiny_vlm_folder, "cpu", torch.float32)
    table = results.results()
    for image_id, path in ((0, images / "0.png"), (5, images / "4.png")):
        expected = brute_force(vlm, opened, path)
        lines = table.filter(np.equal(table["image_id"].to_numpy(), image_id))
        order = list(zip(*(lines[c].to_pylist() for c in ("row", "col", "layer", "lens")), strict=True))
        assert order == [(r, c, la, le) for r in range(4) for c in range(4) for la in (0, 2, 3) for le in LENS_ORDER]
        ids = np.array(lines["ids"].to_pylist()).reshape(16, 3, 3, 5)
        scores = np.array(lines["scores"].to_pylist()).reshape(16, 3, 3, 5)
        layers = np.array(lines["contextual_layers"].to_pylist()).reshape(16, 3, 3, 5)
        for i, lens in enumerate(LENS_ORDER):
            best = np.argsort(-expected[lens], axis=-1, kind="stable")[..., :5].swapaxes(0, 1)
            best_scores = np.take_along_axis(expected[lens].swapaxes(0, 1), best, axis=-1)
            assert np.abs(scores[:, :, i] - best_scores).max() < 2e-5
            found = ids[:, :, i] + (np.searchsorted(opened.layers, layers[:, :, i]) * opened.rows if i == 0 else 0)
            at_found = np.take_along_axis(expected[lens].swapaxes(0, 1), found, axis=-1)
            assert np.abs(at_found - best_scores).max() < 2e-5
            assert (found == best).mean() > 0.99  # all but ties that rounding decides


def visual_states(folder: Path, image: Path, layers: Sequence[int]) -> np.ndarray:
    """Hidden states [tokens, layers, dim] of an image's visual tokens in float64, by transformers alone."""
    vlm = load_vlm(folder, "cpu", torch.float64)
    inputs = vlm.processor(images=[Image.open(image)], text=["<image> Describe"], return_tensors="pt")
    with torch.no_grad():
        pixels = {"pixel_values": inputs["pixel_values"].double()}
        hidden = vlm.model(**{**inputs, **pixels}, output_hidden_states=True).hidden_states
    visual = (inputs["input_ids"][0] == 4).nonzero().flatten()
    return torch.stack([hidden[layer][0, visual] for layer in layers], dim=1).numpy()


def test_the_norms_are_those_of_the_states(results: LensResults, tiny_vlm_folder: Path, images: Path) -> None:
    expected = np.linalg.norm(visual_states(tiny_vlm_folder, images / "4.png", results.layers), axis=2)
    found = results.norms(image_ids=[5])
    assert found["image_id"].to_pylist() == [5] * 16
    assert found.select(["row", "col"]).to_pylist() == [{"row": r, "col": c} for r in range(4) for c in range(4)]
    np.testing.assert_allclose(np.array(found["norms"].to_pylist()), expected, rtol=1e-4)


def test_the_cosines_are_those_of_the_states(results: LensResults, tiny_vlm_folder: Path, images: Path) -> None:
    states = visual_states(tiny_vlm_folder, images / "4.png", results.layers)
    unit = states / np.linalg.norm(states, axis=2, keepdims=True)
    found = results.cosines(image_ids=[5])
    assert found.select(["row", "col"]).to_pylist() == [{"row": r, "col": c} for r in range(4) for c in range(4)]
    own = np.einsum("tld,td->tl", unit, unit[:, 0])
    np.testing.assert_allclose(np.array(found["own"].to_pylist()), own, atol=2e-6)
    # The documented choice, computed another way: the token whose hash comes next, around the circle.
    sha256 = results.images()["sha256"][5].as_py()
    stream = hashlib.shake_256(f"lenscore.drift/partners/{sha256}".encode()).digest(8 * 16)
    hashes = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(16)]
    above = {h: [i for i in hashes if i > h] for h in hashes}
    partner = [hashes.index(min(above[h] or hashes)) for h in hashes]
    shuffled = np.einsum("tld,td->tl", unit, unit[partner, 0])
    np.testing.assert_allclose(np.array(found["shuffled"].to_pylist()), shuffled, atol=2e-6)
    assert np.abs(shuffled - own).max() > 0.1


def test_the_distributions_are_those_of_the_states(results: LensResults, tiny_vlm_folder: Path, images: Path) -> None:
    vlm = load_vlm(tiny_vlm_folder, "cpu", torch.float64)
    states = torch.from_numpy(visual_states(tiny_vlm_folder, images / "4.png", results.layers))
    with torch.no_grad():
        inputs = vlm.processor(images=[Image.open(images / "4.png")], text=["<image> Describe"], return_tensors="pt")
        final = vlm.model(**{**inputs, "pixel_values": inputs["pixel_values"].double()}).logits[0]
        final = final[inputs["input_ids"][0] == 4].log_softmax(-1)[:, None]  # the model's own
        log_p = vlm.model.lm_head(vlm.decoder.norm(states)).log_softmax(-1)
    assert results.distribution_lenses == ("logit",)
    found = results.distributions("logit", image_ids=[5])
    assert found.select(["row", "col"]).to_pylist() == [{"row": r, "col": c} for r in range(4) for c in range(4)]
    for name, expected in (
        ("entropies", -(log_p.exp() * log_p).sum(-1)),
        ("divergences", (final.exp() * (final - log_p)).sum(-1)),
    ):
        np.testing.assert_allclose(np.array(found[name].to_pylist()), expected.numpy(), atol=2e-5)
    lines = results.results("logit", image_ids=[5])
    normalizers = np.repeat(np.array(found["log_normalizers"].to_pylist()).ravel(), results.top_k)
    shares = np.exp(lines["scores"].combine_chunks().flatten().to_numpy() - normalizers)
    ids = np.array(lines["ids"].to_pylist()).reshape(16, 3, 5)
    expected = np.take_along_axis(log_p.exp().numpy(), ids, axis=2).ravel()
    np.testing.assert_allclose(shares, expected, atol=1e-5)
    with pytest.raises(InputError, match=r"kept no probabilities of the lens 'latent'"):
        results.distributions("latent")


def test_the_state_after_the_last_block_is_a_layer_too(job: AnalyzeJob, results: LensResults, tmp_path: Path) -> None:
    other = dataclasses.replace(job, out=tmp_path / "run", layers="0,2,3,final", lenses="logit,embedding", store=None)
    again = LensResults.open(complete(other).path)
    assert again.layers == (0, 2, 3, 4)
    for layer in (0, 2, 3):
        for lens in ("logit", "embedding"):
            assert again.results(lens, layer)["ids"].equals(results.results(lens, layer)["ids"])
    assert np.abs(np.array(again.distributions("logit")["divergences"].to_pylist())[:, 3]).max() < 1e-6


def test_neither_batches_nor_prompts_move_a_partner(job: AnalyzeJob, results: LensResults, tmp_path: Path) -> None:
    other = dataclasses.replace(job, out=tmp_path / "run", batch_size=3, images_per_shard=2, layers="-1,2,0")
    again = LensResults.open(complete(other).path)
    for name in ("own", "shuffled"):
        a, b = (np.stack(run.cosines()[name].to_numpy(zero_copy_only=False)) for run in (results, again))
        order = [again.layers.index(layer) for layer in results.layers]
        assert np.abs(a - b[:, order]).max() < 1e-5


def test_a_run_without_cosines_says_so(job: AnalyzeJob, results: LensResults, tmp_path: Path) -> None:
    old = shutil.copytree(results.path, tmp_path / "run")
    run = RunFolder.open(old)
    for receipt in run.receipts():
        files = {name: digest for name, digest in receipt.files.items() if not name.startswith("cosines/")}
        run.write_receipt(Receipt(receipt.shard, receipt.items, files, receipt.facts))
    assert len(LensResults.open(old).norms()) == 7 * 16
    with pytest.raises(InputError, match="kept no cosines between layers; to have them, analyse again"):
        LensResults.open(old).cosines()


def test_an_unreadable_image_is_skipped_and_listed(results: LensResults, images: Path) -> None:
    (listed,) = [line for receipt in results.run.receipts() for line in receipt.facts["unreadable"]]
    broken = images / "3-broken.png"
    assert listed == {"image_id": 3, "path": str(broken), "reason": "cannot identify image file"}
    geometry = results.geometry().to_pylist()
    assert [line["error"] for line in geometry] == [None] * 3 + ["cannot identify image file"] + [None] * 4
    assert [len(line["patches"]) for line in geometry] == [16] * 3 + [0] + [16] * 4
    width, height = Image.open(images / "0.png").size
    assert (geometry[0]["width"], geometry[0]["height"]) == (width, height)
    assert set(results.results()["image_id"].to_pylist()) == {0, 1, 2, 4, 5, 6, 7}
    words = results.token_words()
    assert (len(words), words[12]) == (40, "dog")


def test_bytes_do_not_depend_on_the_order_of_shards(job: AnalyzeJob, results: LensResults, tmp_path: Path) -> None:
    again = dataclasses.replace(job, out=tmp_path / "run")
    torch.manual_seed(99)
    complete(again, backwards=True)
    assert bytes_of(again.out) == bytes_of(results.path)


def test_batch_size_changes_nothing_beyond_rounding(job: AnalyzeJob, results: LensResults, tmp_path: Path) -> None:
    other = LensResults.open(complete(dataclasses.replace(job, out=tmp_path / "run", batch_size=8)).path)
    a, b = (np.stack(r.results()["scores"].to_numpy(zero_copy_only=False)) for r in (results, other))
    assert np.abs(a - b).max() < 1e-5
    ids = [np.stack(r.results()["ids"].to_numpy(zero_copy_only=False)) for r in (results, other)]
    assert (ids[0] == ids[1]).mean() > 0.999


def test_a_batch_is_written_while_the_next_is_computed_and_then_freed(
    job: AnalyzeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dataclasses.replace(job, out=tmp_path / "run", images_per_shard=8)
    run = whole.open_run()
    whole.plan(run, lambda message: None)
    worker = whole.open_worker(run, "cpu")
    (shard,) = run.missing()
    undisturbed = worker.run(shard).files
    engine, honest, goes_on = worker._engine, ShardTables.add, threading.Event()
    batches: list[weakref.ref[BatchResults]] = []

    class Watched:
        def analyze(self, images: Sequence[tuple[int, ImageFile]]) -> Iterator[BatchResults]:
            for found in engine.analyze(images):
                batches.append(weakref.ref(found))
                yield found
                del found
                goes_on.set()
                while any(batch() is not None for batch in batches[:-1]):
                    assert time.monotonic() < until, "an earlier batch is still in memory"

    def add(tables: ShardTables, found: BatchResults) -> None:
        assert goes_on.wait(10), "the device waits for the tables"
        goes_on.clear()
        honest(tables, found)

    until = time.monotonic() + 20
    monkeypatch.setattr(ShardTables, "add", add)
    monkeypatch.setattr(worker, "_engine", Watched())
    assert worker.run(shard).files == undisturbed
    assert len(batches) == 4


class ShortestLens:
    """A lens that has nothing to do with the others: the dimensions in which the state is smallest."""

    name = "shortest"
    needs_store = False
    ids = "tokens"

    @classmethod
    def from_model(cls, vlm: Vlm, index: ContextualIndex | None) -> ShortestLens:
        assert index is None
        return cls()

    def top(self, states: torch.Tensor, layers: Sequence[int], k: int) -> TopK:
        assert states.shape[0] == len(layers)
        small = (-states.float().abs()).topk(k, dim=-1)
        return TopK(small.indices.int(), small.values, torch.full_like(small.indices, -1, dtype=torch.int16))


def test_a_fourth_lens_fits_in(
    job: AnalyzeJob, results: LensResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LENSES, "shortest", ShortestLens)
    alone = dataclasses.replace(job, out=tmp_path / "run", lenses="shortest,logit", store=None)
    found = LensResults.open(complete(alone).path)
    assert found.lenses == ("shortest", "logit")
    assert found.results("shortest")["scores"].to_pylist()[0][0] <= 0
    assert found.results("logit").equals(results.results("logit"))


def test_captions_of_a_table_come_along(job: AnalyzeJob, images: Path, tmp_path: Path) -> None:
    table = pd.DataFrame({"file": [str(images / "1.png"), str(images / "0.png")], "text": ["one", None]})
    table.to_csv(tmp_path / "t.csv", index=False)
    listed = dataclasses.replace(
        job, images=tmp_path / "t.csv", out=tmp_path / "run", path_column="file", caption_column="text"
    )
    lines = LensResults.open(complete(listed).path).images().to_pylist()
    assert [(Path(line["path"]).name, line["caption"]) for line in lines] == [("1.png", "one"), ("0.png", None)]


def test_an_image_that_changed_since_the_plan_is_loud(job: AnalyzeJob, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "a.png")
    changing = dataclasses.replace(job, images=tmp_path / "images", out=tmp_path / "run")
    run = changing.open_run()
    changing.plan(run, lambda message: None)
    Image.new("RGB", (9, 9), "red").save(tmp_path / "images" / "a.png")
    assert (
        "a.png: changed since the run was planned" in work(run, lambda: changing.open_worker(run, "cpu"), "t").refused
    )
    assert run.done() == set()
    with pytest.raises(InputError, match=r"another run[\s\S]*sha256"):
        dataclasses.replace(changing).open_run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": "0,5"}, r"the model has 4 blocks, so layers 0 to 3 \(or -4 to -1\), and 4, the output"),
        ({"contextual_layers": "0"}, r"--contextual-layers: .*s\.zarr has no layer 0; expected some of 1, 2, 3"),
        ({"lenses": "latent,tarot"}, r"--lenses: 'tarot' is not a lens"),
        ({"store": None}, r"--lenses .* give --store"),
        ({"top_k": 0}, r"--top-k: found 0"),
        ({"images": Path("/nowhere")}, r"--images /nowhere: no such file or folder"),
        ({"model": "/nowhere"}, r"--model /nowhere: no such model folder"),
    ],
)
def test_refused_before_any_weight_is_loaded(
    job: AnalyzeJob, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(job, out=tmp_path / "run", **changes).open_run()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("difference", ["weights", "width", "vocabulary", "text model"])
def test_a_store_of_another_language_model_is_refused(job: AnalyzeJob, tmp_path: Path, difference: str) -> None:
    llama = make_llama(seed=7 if difference == "weights" else 0, dim=16 if difference == "width" else 32)
    make_llava(llama).save_pretrained(tmp_path / "vlm")
    processor = make_processor()
    if difference == "vocabulary":
        processor.tokenizer = make_tokenizer(WORDS[::-1])
    processor.save_pretrained(tmp_path / "vlm")
    if difference == "text model":
        llama.save_pretrained(tmp_path / "vlm")
    other = dataclasses.replace(job, model=str(tmp_path / "vlm"), out=tmp_path / "run")
    message = {
        "weights": "with decoder weights",
        "width": "with hidden states of 32 dimensions, but the text side of .* has 16",
        "vocabulary": "with tokenizer",
        "text model": "a 'llama' model takes no images with text",
    }[difference]
    with pytest.raises(InputError, match=message):
        complete(other)


class SecondLens(LatentLens):
    """Another lens over the store."""

    name = "second"


def test_a_second_lens_over_the_store_says_words_of_the_store(job, results, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(LENSES, "second", SecondLens)
    found = LensResults.open(
        complete(dataclasses.replace(job, out=tmp_path / "run", lenses="latent,second,logit")).path
    )
    assert found.store_lenses == ("latent", "second")
    assert "store_lenses" not in results.run.require_plan().facts  # the bytes of usual runs are what they were
    tops = {lens: found.results(lens=lens).column("ids").combine_chunks().flatten().to_numpy() for lens in found.lenses}
    assert np.array_equal(tops["second"], tops["latent"])
    words = CandidateWords(found, "phrase")
    assert words.of("second", tops["second"][:5]) == words.of("latent", tops["latent"][:5])
    assert any("[" in word for word in words.of("second", tops["second"]))
    for _, reading in RunReadings(found).readings([0]):
        latent, second, logit = reading.lenses
        assert second.words == latent.words
        assert np.array_equal(second.contextual_layers, latent.contextual_layers)
        assert logit.contextual_layers is None
    (source,) = read_sources([found.path], {job.store.resolve(): "damaged"}).analyses
    assert source.results.lenses == ("logit",)


def test_explained_variance_is_kept_beside_the_same_results(
    job: AnalyzeJob, results: LensResults, tiny_vlm: Vlm, images: Path, tmp_path: Path
) -> None:
    asked = dataclasses.replace(job, out=tmp_path / "asked", explained=True)
    run = complete(asked)
    found = LensResults.open(run.path)
    assert (found.explained_lenses, results.explained_lenses) == (tuple(LENS_ORDER), ())
    for folder in ("results", "norms", "cosines", "distributions", "geometry"):
        for part in sorted((results.path / folder).iterdir()):
            assert (found.path / folder / part.name).read_bytes() == part.read_bytes()
    again = dataclasses.replace(asked, out=tmp_path / "again")
    complete(again, backwards=True)
    assert bytes_of(again.out) == bytes_of(found.path)
    analyzed = analyze_image(images / "4.png", tiny_vlm, asked.store, layers=[0, 2, 3], explained=True, self_test=False)
    lens_by_name = {lens.lens: lens for lens in analyzed.reading.lenses}
    for lens in LENS_ORDER:
        table = found.explained(lens, image_ids=[5])
        assert table.select(["row", "col"]).to_pylist() == [{"row": r, "col": c} for r in range(4) for c in range(4)]
        for name in EXPLAINED_NUMBERS:
            stored = np.array(table[name].to_pylist())
            assert np.abs(stored.T - getattr(lens_by_name[lens].explained, name)).max() < 1e-4
            assert ((stored >= 0) & (stored <= 1)).all() or name == "variances"
    with pytest.raises(InputError, match=r"kept no explained variance of the lens 'logit'; analyse again into a new"):
        results.explained("logit")
    ((_, reading),) = RunReadings(found).readings([5])
    frames = [analyzed.to_pandas(), reading_table(reading)]
    write_results_table(found, tmp_path / "t.parquet")
    frames.append(pd.read_parquet(tmp_path / "t.parquet").query("image_id == 5"))
    for name in EXPLAINED_NUMBERS:
        columns = [frame.sort_values(["row", "col", "layer", "lens", "rank"])[name].to_numpy() for frame in frames]
        assert np.abs(columns[0] - columns[1]).max() < 1e-4
        assert np.array_equal(columns[1], columns[2])
