"""The tune stage on a tiny random Llama, and analyze with what it made."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy, kl_div

import lenscore
from jobs import tune_worker
from jobs.analyze_job import AnalyzeJob
from jobs.tune_job import TuneJob
from jobs.work import work
from launch import tune
from launch.estimate import estimate
from launch.terminal import Terminal
from lenscore.lenses import TunedLens
from lenscore.models.loading import LanguageModel, Vlm
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.tables import parse_table
from storage_layouts.tuned_lens import TunedLensFiles, read_measures
from tests.conftest import WORDS, make_llama, make_tokenizer
from tests.run_bytes import bytes_of

DEPTH, LENGTH = 4, 8
SETTINGS = {"steps": 5, "sequences_per_step": 6, "tokens_per_sequence": LENGTH, "held_out": 0.2, "batch_tokens": 24}


def complete(job: Any, order: tuple[int, ...] = ()) -> RunFolder:
    """The whole stage in this process, as one worker; `order` is that of the shards."""
    run = job.open_run()
    job.plan(run, lambda message: None)
    if order:
        worker = job.open_worker(run, "cpu")
        for index in order:
            run.write_receipt(worker.run(run.require_plan().shard(index)))
    report = work(run, lambda: job.open_worker(run, "cpu"), "test")
    if report.refused or report.broken:
        raise InputError(report.refused or report.broken)
    run.require_complete()
    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(60)))
    return path


@pytest.fixture(scope="module")
def flags(tiny_llm_folder: Path, corpus: Path) -> list[str]:
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    return ["--model", str(tiny_llm_folder), "--corpus", str(corpus), "--workers", "1", *settings]


@pytest.fixture(scope="module")
def tuned(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run, of one shard."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    assert tune.main([*flags, "--out", str(out), "--layers-per-shard", "4"]) == 0
    return out


@pytest.fixture
def job(tiny_llm_folder: Path, corpus: Path, tmp_path: Path) -> TuneJob:
    return TuneJob(str(tiny_llm_folder), (corpus,), tmp_path / "run", layers_per_shard=1, **SETTINGS)


def test_groups_of_layers_and_their_order_change_no_byte(job: TuneJob, tuned: Path) -> None:
    run = complete(job, order=(2, 0))
    assert run.require_plan().shard_count == DEPTH
    of_layers, of_one = (TunedLensFiles.open(path) for path in (run.path, tuned))
    for alone, together in zip(of_layers.translators(), of_one.translators(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    of_layers.write_folder(run.path / "lens")
    for name in ("config.json", "params.pt"):
        assert (run.path / "lens" / name).read_bytes() == (tuned / "lens" / name).read_bytes()
    layers = [one for found in read_measures(run) for one in found["layers"]]
    assert layers == next(read_measures(RunFolder.open(tuned)))["layers"]


def test_workers_and_kills_change_no_byte(
    flags: list[str], tmp_path: Path, job: TuneJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers; and one that is killed within a shard, after it has saved a state."""
    complete(job)
    assert tune.main([*flags, "--out", str(tmp_path / "two"), "--layers-per-shard", "1", "--workers", "2"]) == 0
    monkeypatch.setattr(tune_worker, "SECONDS_BETWEEN_STATES", 0.0)
    killed = TuneJob(job.model, job.corpus, tmp_path / "killed", layers_per_shard=1, **SETTINGS)
    run = killed.open_run()
    killed.plan(run, lambda message: None)

    def kill(items: int, doing: str = "") -> None:
        if items == 3 * SETTINGS["sequences_per_step"]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed.open_worker(run, "cpu").run(run.require_plan().shard(1), kill)
    assert sorted(path.name for path in (run.path / "state" / "00001").glob("*.json")) == [
        "00000001.json",
        "00000002.json",
    ]
    complete(killed)
    shutil.rmtree(run.path / "state")
    for name in ("evaluation.csv", "lens/config.json", "lens/params.pt"):
        (tmp_path / "two" / name).unlink()
    expected = bytes_of(job.out)
    assert len(expected) > 15
    assert bytes_of(run.path) == expected == bytes_of(tmp_path / "two")


def test_the_evaluation_is_that_of_float64(tuned: Path) -> None:
    """Of sequences that are not trained on, which are whole texts of the corpus."""
    run = RunFolder.open(tuned)
    worker_tokens = [read_ids(run, name) for name in ("training.parquet", "held_out.parquet")]
    assert len(worker_tokens[0]) > 3 * len(worker_tokens[1]) > 0
    ids, model = worker_tokens[1], make_llama().double()
    with torch.no_grad():
        hidden = model(input_ids=ids, output_hidden_states=True)
        target = hidden.logits.log_softmax(-1)
        translators = TunedLensFiles.open(tuned).translators()
        found = next(read_measures(run))
        assert [one["layer"] for one in found["layers"]] == list(range(DEPTH))
        for one, state, (weight, bias) in zip(found["layers"], hidden.hidden_states, translators, strict=False):
            for lens, read in (("logit", state), ("tuned", state + state @ weight.double().T + bias.double())):
                log_p = model.lm_head(model.model.norm(read)).log_softmax(-1)
                ahead = float(cross_entropy(log_p[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))
                divergence = float(kl_div(log_p, target, reduction="sum", log_target=True)) / ids.numel()
                assert one[lens] == pytest.approx({"cross_entropy": ahead, "divergence": divergence}, abs=2e-5)
            assert one["tuned"]["divergence"] < one["logit"]["divergence"]
            assert one["losses"][0] > one["losses"][-1]
    assert (tuned / "evaluation.csv").read_text().count("\n") == DEPTH + 2


def read_ids(run: RunFolder, name: str) -> torch.Tensor:
    table = parse_table(run.path / name, run.read_plan_file(name), tune_worker.sequence_schema(LENGTH))
    return torch.tensor(table["token_ids"].to_pylist())


def test_analyze_reads_what_float64_reads(tuned: Path, tiny_vlm_folder: Path, tiny_vlm: Vlm, tmp_path: Path) -> None:
    """Of the LLM inside a VLM; and `final` is LogitLens. A run and its folder are one lens."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(2)
    picture = tmp_path / "images" / "0.png"
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(picture)
    tables = {}
    for name, folder in (("run", tuned), ("folder", tuned / "lens")):
        job = AnalyzeJob(
            str(tiny_vlm_folder),
            tmp_path / "images",
            tmp_path / name,
            lenses="logit,tuned",
            tuned=folder,
            layers="all,final",
        )
        tables[name] = LensResults.open(complete(job).path)
    frame = tables["run"].results().to_pandas()
    assert frame.equals(tables["folder"].results().to_pandas())
    assert tables["run"].distribution_lenses == ("logit", "tuned")
    final = frame[frame["layer"] == DEPTH].set_index(["row", "col", "lens"])["scores"].unstack()
    assert all(np.array_equal(a, b) for a, b in zip(final["logit"], final["tuned"], strict=True))
    with torch.no_grad():
        inputs = tiny_vlm.processor(
            images=[Image.open(picture)], text=["<image> Describe this image."], return_tensors="pt"
        )
        hidden = tiny_vlm.model(**inputs, output_hidden_states=True).hidden_states
        visual = (inputs["input_ids"][0] == 4).nonzero().flatten()
        exact = make_llama().double()
        words = [tiny_vlm.tokenizer.get_vocab()[word] for word in WORDS]
        for layer, (weight, bias) in enumerate(TunedLensFiles.open(tuned).translators()):
            state = hidden[layer][0, visual].double()
            logits = exact.lm_head(exact.model.norm(state + state @ weight.double().T + bias.double()))[:, words]
            scores = np.stack(frame[(frame["layer"] == layer) & (frame["lens"] == "tuned")]["scores"])
            np.testing.assert_allclose(scores, logits.topk(5).values.numpy(), rtol=1e-4, atol=1e-4)
    image = lenscore.analyze_image(picture, tiny_vlm, tuned=tuned, layers="0,2", self_test=False)
    assert [one.lens for one in image.reading.lenses] == ["logit", "embedding", "tuned"]


def refused(tuned: Path, model: Any = None) -> str:
    """The one line with which a lens is refused."""
    with pytest.raises(InputError) as error:
        TunedLens.from_files(LanguageModel("M", model or make_llama(), make_tokenizer()), TunedLensFiles.open(tuned))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_lens_of_another_model_or_damaged_is_one_line(tuned: Path, tiny_vlm_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lens"
    shutil.copytree(tuned / "lens", folder)
    assert "with states of width d_model 32, but the language model of M has 16" in refused(tuned, make_llama(dim=16))
    assert "num_hidden_layers 4, but the language model of M has 3" in refused(folder, make_llama(layers=3))
    other = make_llama(seed=1)
    assert "an LM head of hash" in refused(folder, other)
    other.lm_head = make_llama().lm_head
    assert "with decoder weights" in refused(tuned, other)
    tensors = torch.load(folder / "params.pt")
    tensors["2.weight"][0, 0] = torch.nan
    torch.save(tensors, folder / "params.pt")
    assert "2.weight holds NaN or infinity" in refused(folder)
    torch.save({name: tensor[:3] for name, tensor in tensors.items()}, folder / "params.pt")
    assert "0.weight: found shape (3, 32), expected shape (32, 32)" in refused(folder)
    torch.save({"0.weight": print}, folder / "params.pt")
    assert "it holds code" in refused(folder)
    (folder / "config.json").write_text(json.dumps({"d_model": "wide"}))
    assert "config.json: found no field base_model_name_or_path" in refused(folder)
    (folder / "config.json").unlink()
    assert f"--tuned {folder}: no config.json in it; expected a run of `lens tune`" in refused(folder)
    usual = {"model": str(tiny_vlm_folder), "images": tmp_path, "out": tmp_path / "out"}
    with pytest.raises(InputError, match="needs translators; give --tuned RUN"):
        AnalyzeJob(**usual, lenses="logit,tuned")
    with pytest.raises(InputError, match="--lenses logit: found --tuned, but no tuned lens; add tuned"):
        AnalyzeJob(**usual, lenses="logit", tuned=tuned)


def test_a_model_without_a_head_is_refused_in_the_words_of_the_command(
    job: TuneJob, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = job.open_run()
    job.plan(run, lambda message: None)
    model = make_llama()
    monkeypatch.setattr(type(model), "get_output_embeddings", lambda self: None)
    assert refused(tuned, model) == "--lenses tuned: no LM head was found in M; leave the lens out"
    with pytest.raises(InputError, match=r"--model .*: no LM head was found in .*; a Tuned Lens needs one"):
        job.open_worker(run, "cpu")


def test_too_little_text_is_one_line(job: TuneJob, tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("the red dog\nthe blue cat")
    small = TuneJob(job.model, (tmp_path / "small.txt",), tmp_path / "small", **SETTINGS)
    with pytest.raises(InputError, match=r"--corpus: 10 tokens in 2 texts leave no sequence of 8 tokens"):
        small.plan(small.open_run(), lambda message: None)


def test_a_plan_is_probed_in_seconds_and_writes_nothing(job: TuneJob, tuned: Path) -> None:
    found = estimate(dataclasses.replace(job, steps=50_000), 2, "cpu", None, Terminal(quiet=True))
    assert (found.items, found.shards, found.missing) == (DEPTH * 50_000 * 6, DEPTH, DEPTH)
    assert found.worker_seconds is not None
    assert found.seconds == pytest.approx(found.worker_seconds / 2)
    files = [tuned / name for name in ("training.parquet", "held_out.parquet")]
    assert found.bytes == sum(path.stat().st_size for path in files) + 4 * DEPTH * (32 + 1) * 32
    assert not job.out.exists()
