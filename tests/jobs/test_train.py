"""The train stage: the paper's 3 x 3 grid in miniature, killed and resumed, and looked at with the lenses."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from jobs import train_job
from jobs.analyze_job import AnalyzeJob
from jobs.extract_job import ExtractJob
from jobs.judge_job import JudgeJob
from jobs.train_job import TrainJob
from jobs.work import work
from launch.stage_summary import skipped_images
from lenscore import shapes
from lenscore.models.fingerprints import text_weights_fingerprint
from lenscore.models.loading import load_model, load_vlm
from lenscore.training.assembly import assemble
from lenscore.training.trainer import ConnectorTrainer
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from storage_layouts.runs import Plan, Receipt, RunFolder
from storage_layouts.verdicts import read_verdicts
from storage_layouts.verification import verify
from tests.training_parts import ENCODERS, LLMS, save_encoder, save_llm


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images with captions, and all the parts, in folders of their names."""
    folder = tmp_path_factory.mktemp("world")
    shapes.write_images(folder / "train", "train", 24)
    shapes.write_images(folder / "test", "test", 4)
    lines = shapes.corpus_path().read_text().splitlines()[:40]
    (folder / "corpus.txt").write_text("\n".join(lines))
    for name in LLMS:
        save_llm(name, folder / name)
    for name in ENCODERS:
        save_encoder(name, folder / name)
    return folder


def job_for(world: Path, llm: str, vision: str, out: Path, **more) -> TrainJob:
    settings = {
        **{"vit_layers": "-2,-4", "steps": 6, "steps_per_shard": 2, "batch_size": 4, "warmup_steps": 2},
        **{"learning_rate": 1e-2, "precision": "float32"},
    }
    return TrainJob(str(world / llm), str(world / vision), str(world / "train"), out, **{**settings, **more})


def planned(job) -> RunFolder:
    run = job.open_run()
    job.plan(run, lambda message: None)
    return run


def complete(job) -> RunFolder:
    run = planned(job)
    report = work(run, lambda: job.open_worker(run, "cpu"), "worker")
    if report.refused:
        raise InputError(report.refused)
    assert report.exit_code == 0, (report, run.failures())
    run.require_complete()
    return run


def content(run: RunFolder) -> dict[str, bytes]:
    """What receipts name."""
    names = {name for receipt in run.receipts() for name in receipt.files}
    return {name: (run.path / name).read_bytes() for name in sorted(names)}


def losses(run: RunFolder) -> list[float]:
    paths = sorted((run.path / "losses").glob("*.json"))
    return [loss for path in paths for loss in json.loads(path.read_bytes())["loss"]]


GRID = [
    (llm, vision, ("swiglu", "mlp", "linear")[(i + j) % 3])
    for i, llm in enumerate(LLMS)
    for j, vision in enumerate(ENCODERS)
]
DIAGONAL = GRID[::4]  # every LLM, every encoder and every connector once


@pytest.mark.parametrize(("llm", "vision", "connector"), GRID)
def test_grid_in_miniature(world, tmp_path, llm, vision, connector):
    job = job_for(world, llm, vision, tmp_path / "run", connector=connector)
    run = complete(job)
    assert len(losses(run)) == 6
    assert verify(run.path).problems == []
    # It says whether HF_HUB_OFFLINE was set, and so would change the bytes.
    assert "local_files_only" not in (run.path / "model/tokenizer_config.json").read_text()

    # As after a kill in the second span: its receipt, its losses and what came behind it are not there.
    again = dataclasses.replace(job, out=tmp_path / "again")
    resumed = planned(again)
    resumed.write_receipt(again.open_worker(resumed, "cpu").run(resumed.missing()[0]))
    assert content(complete(again)) == content(run)

    # The LLM is as it was, so what it extracts from a corpus is of the trained model too.
    trained, given = load_vlm(run.path / "model", "cpu"), load_model(world / llm, "cpu")[0]
    assert text_weights_fingerprint(trained.model) == text_weights_fingerprint(given)
    if (llm, vision, connector) in DIAGONAL:
        look(world, world / llm, run.path / "model", tmp_path)


def look(world: Path, llm: Path, model: Path, out: Path) -> None:
    """The demo: extract from the LLM, analyze with all lenses, judge by the truth."""
    complete(ExtractJob(str(llm), (world / "corpus.txt",), out / "store.zarr", layers="all"))
    results = complete(
        AnalyzeJob(str(model), world / "test", out / "results", store=out / "store.zarr", layers="all", batch_size=2)
    )
    table = LensResults.open(results.path).results().to_pandas()
    assert len(table) == 4 * 64 * 3 * 3  # images, patches, layers, lenses
    assert sorted(table["row"].unique()) == sorted(table["col"].unique()) == list(range(8))
    verdicts = read_verdicts(complete(JudgeJob(results.path, out / "verdicts", judge="truth", patches=4)))
    assert set(verdicts["lens"]) == {"latent", "logit", "embedding"}


def test_a_state_that_is_gone_costs_time_alone(world, tmp_path):
    job = job_for(world, "llama", "clip", tmp_path / "run")
    run = complete(job)
    shutil.rmtree(run.path / "state")
    before = content(run)
    (run.path / "receipts/00001.json").unlink()
    (run.path / "losses/00001.json").unlink()
    assert content(complete(job)) == before


@pytest.mark.parametrize("option", ["unfreeze_llm", "unfreeze_vit"])
def test_unfrozen_parts_move_and_resume(world, tmp_path, option):
    settings = {option: True, "unfrozen_warmup_steps": 1, "llm_learning_rate": 1e-2, "vit_learning_rate": 1e-2}
    job = job_for(world, "llama", "dinov2", tmp_path / "run", precision="bfloat16", steps=4, **settings)
    run = complete(job)
    again = dataclasses.replace(job, out=tmp_path / "again")
    resumed = planned(again)
    resumed.write_receipt(again.open_worker(resumed, "cpu").run(resumed.missing()[0]))
    assert content(complete(again)) == content(run)
    trained = load_vlm(run.path / "model", "cpu").model
    assert trained.dtype == torch.bfloat16
    before = assemble(job._parts, 0, torch.bfloat16)[0].state_dict()
    moved = {name for name, weight in trained.state_dict().items() if not torch.equal(weight, before[name])}
    # A bfloat16 weight moves only if the update is large enough; some of each part did.
    assert any(name.startswith("model.language_model.layers") for name in moved) == (option == "unfreeze_llm")
    assert any(name.startswith("model.vision_tower") for name in moved) == (option == "unfreeze_vit")
    assert not any("embed_tokens" in name or "lm_head" in name for name in moved)


def test_a_cpu_without_bfloat16_computes_in_float32_with_the_weights_of_bfloat16(world, tmp_path, monkeypatch):
    def losses(native: bool) -> list[float]:
        monkeypatch.setattr(train_job, "cpu_multiplies_bfloat16", lambda: native)
        name = f"{native}/losses/00000.json"
        complete(dataclasses.replace(job, out=tmp_path / str(native)))
        return json.loads((tmp_path / name).read_bytes())["loss"]

    job = job_for(world, "llama", "dinov2", tmp_path, precision="bfloat16", steps=2, micro_batch_size=4)
    native, other = losses(True), losses(False)
    assert native != other
    assert native == pytest.approx(other, rel=0.1)
    (inputs,) = job.open_worker(RunFolder.open(tmp_path / "False"), "cpu")._trainer._batches.take(0).micro
    model = assemble(job._parts, job.seed, torch.bfloat16)[0]
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    in_float64 = model.double()(**inputs | {"pixel_values": inputs["pixel_values"].double()}, use_cache=False)
    assert other[0] == pytest.approx(in_float64.loss.item(), rel=1e-6)
    saved = load_vlm(tmp_path / "False/model", "cpu").model.state_dict()
    assert all(weight.dtype == torch.bfloat16 for weight in saved.values())
    assert all(torch.equal(saved[name], weight) for name, weight in weights.items() if "projector" not in name)


def test_objects_that_are_known_are_a_task_of_prompts(world, tmp_path):
    names = sorted(path.name for path in (world / "train").glob("*.png"))[:6]
    lines = [
        "path,x0,y0,x1,y1,word",
        *(f"{name},0,{i % 2 * 0.9},1,{i % 2 * 0.9 + 0.1},disc" for i, name in enumerate(names)),
    ]
    (tmp_path / "objects.csv").write_text("\n".join(lines))
    job = job_for(world, "llama", "clip", tmp_path / "run", top_bottom=str(tmp_path / "objects.csv"), steps=2)
    run = complete(job)
    pairs = pq.read_table(run.path / "pairs.parquet").to_pylist()
    assert [(Path(pair["source"]).name, pair["prompt"]) for pair in pairs] == [
        (name, "Where is disc?") for name in names
    ]
    assert [pair["caption"].split()[4] for pair in pairs] == ["top", "bottom"] * 3
    assert "examples: 6 (top 3, bottom 3)" in run.plan.facts["notes"]
    made_of = load_vlm(run.path / "model", "cpu").model.config.made_of
    assert made_of["prompt_column"] == "prompt"  # as that of data with prompts of one's own
    assert "top_bottom" not in made_of
    (tmp_path / "objects.csv").write_text("\n".join(lines).replace("disc", "square"))
    with pytest.raises(InputError, match=r"data"):
        dataclasses.replace(job).open_run()


def test_models_of_chosen_steps_are_kept_and_change_nothing_else(world, tmp_path):
    plain = complete(job_for(world, "llama", "clip", tmp_path / "plain"))
    job = job_for(world, "llama", "clip", tmp_path / "run", save_at="0, 2,5")
    run = planned(job)
    # Killed behind a model that is kept: in the last span, whose receipt is not there.
    before = job.open_worker(run, "cpu")
    for shard in run.missing():
        receipt = before.run(shard)
        if shard.index < 2:
            run.write_receipt(receipt)
    shutil.rmtree(run.path / "models/step-5")
    complete(job)
    assert verify(run.path).problems == []
    assert {name: data for name, data in content(run).items() if not name.startswith("models/")} == content(plain)
    assert sorted(path.name for path in (run.path / "models").iterdir()) == ["step-0", "step-2", "step-5"]
    assert [sorted(receipt.files) for receipt in run.receipts()] == [
        sorted(str(path.relative_to(run.path)) for path in files)
        for files in (
            [*run.path.glob("models/step-0/*"), run.path / "losses/00000.json", run.path / "model.json"],
            [*run.path.glob("models/step-2/*"), run.path / "losses/00001.json", run.path / "model.json"],
            [
                *run.path.glob("models/step-5/*"),
                *run.path.glob("model/*"),
                run.path / "losses/00002.json",
                run.path / "model.json",
            ],
        )
    ]
    # The model of step 2 is what a training holds that ends there, on the same way.
    trainer = before._begin()[0]
    for _ in range(2):
        trainer.train_step()
    kept = load_vlm(run.path / "models/step-2", "cpu").model
    assert kept.config.made_of["step"] == 2
    assert "step" not in load_vlm(run.path / "model", "cpu").model.config.made_of
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(kept.state_dict()[name], weight), name


@pytest.mark.parametrize(
    ("save_at", "message"), [("6", "found 6, expected steps below --steps 6"), ("-1", "as in 100,1000,6000")]
)
def test_steps_that_are_never_reached_are_no_steps_to_keep(world, tmp_path, save_at, message):
    with pytest.raises(InputError, match=message):
        job_for(world, "llama", "clip", tmp_path / "run", save_at=save_at)


def test_a_span_that_failed_within_a_step_is_computed_anew(world, tmp_path, monkeypatch):
    """An error between two forward passes of a step leaves gradients behind, and the same worker tries again."""
    job = job_for(world, "llama", "clip", tmp_path / "run")
    whole = content(complete(dataclasses.replace(job, out=tmp_path / "whole")))
    run, loss, passes = planned(job), ConnectorTrainer._loss, []

    def out_of_memory(trainer, *arguments):
        passes.append(trainer.step)
        if len(passes) in (2, 8):  # the second pass of step 0, and of step 2 (each has two passes; step 0 came twice)
            raise RuntimeError("out of memory")
        return loss(trainer, *arguments)

    monkeypatch.setattr(ConnectorTrainer, "_loss", out_of_memory)
    report = work(run, lambda: job.open_worker(run, "cpu"), "worker", in_order=True)
    assert (report.finished, run.is_complete()) == (3, True)
    assert passes == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4, 5, 5]
    assert content(run) == whole


def test_an_unfinished_run_of_another_arithmetic_is_refused_and_a_complete_one_is_not(world, tmp_path):
    """As lenscore 0.1 made them: their plans do not say how steps round."""
    job = job_for(world, "llama", "clip", tmp_path / "run")
    run = planned(job)
    plan = json.loads((run.path / "plan.json").read_bytes())
    old = Plan(plan["items"], plan["items_per_shard"], run.plan.files, {"pairs": 24, "notes": []})
    (run.path / "plan.json").unlink()
    RunFolder.open(run.path).write_plan(old.items, old.items_per_shard, old.files, old.facts)
    for refused in (job.open_run, lambda: job.open_worker(RunFolder.open(run.path), "cpu")):
        with pytest.raises(InputError, match=r"steps round otherwise; finish it with that version, or choose a new"):
            refused()
    finished = RunFolder.open(run.path)
    for shard in finished.missing():
        finished.write_receipt(Receipt(shard.index, shard.items))
    assert job.open_run().is_complete()


def test_unreadable_images_are_told_and_never_fatal(world, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(world / "train", folder)
    (folder / "train-00003.png").write_bytes(b"no image")
    (folder / "train-00004.png").unlink()
    run = complete(dataclasses.replace(job_for(world, "llama", "clip", tmp_path / "run"), data=str(folder)))
    told = {Path(line["path"]).name for receipt in run.receipts() for line in receipt.facts["unreadable"]}
    assert told == {"train-00003.png", "train-00004.png"}
    assert any("train-00003.png" in line for line in skipped_images(run))


def test_a_published_connector_is_a_place_to_start(world, tmp_path):
    weights = {"w1.weight": (40, 32), "w2.weight": (32, 40), "w3.weight": (40, 32)}
    layout = {f"vision_backbone.image_projector.{name}": torch.randn(shape) for name, shape in weights.items()}
    torch.save(layout, tmp_path / "connector.pt")
    job = job_for(world, "qwen2", "siglip", tmp_path / "run", start_from=str(tmp_path / "connector.pt"))
    job = dataclasses.replace(job, steps=0)
    model = load_vlm(complete(job).path / "model", "cpu").model
    for name, weight in model.connector.named_parameters():
        assert torch.equal(weight, layout[f"vision_backbone.image_projector.{name}"])
