"""What a run records of its inputs is of the bytes that it used, however they change while it begins."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from jobs.analyze_job import AnalyzeJob
from jobs.extract_job import ExtractJob
from jobs.judge_job import JudgeJob
from jobs.judged_sample import JudgedSample
from jobs.train_job import TrainJob
from jobs.worker import job_of
from lenscore import shapes
from lenscore.judging.prompts import PLACEHOLDER
from lenscore.judging.questions import QuestionSettings
from lenscore.judging.spending.request_policy import RequestPolicy
from storage_layouts.errors import InputError
from storage_layouts.files import write_json
from storage_layouts.runs import RunFolder
from tests.conftest import WORDS
from tests.judge_runs import prices
from tests.training_parts import save_encoder, save_llm


def silent(message: str) -> None:
    pass


@pytest.fixture
def extract(tiny_llm_folder, tmp_path) -> ExtractJob:
    (tmp_path / "corpus").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "corpus" / name).write_text("\n".join(f"the {word} on a {word}" for word in WORDS))
    return ExtractJob(str(tiny_llm_folder), (tmp_path / "corpus",), tmp_path / "store.zarr")


def replaced(folder: Path) -> None:
    (folder / "b.txt").write_text("the sky")


def appended(folder: Path) -> None:
    with (folder / "a.txt").open("a") as file:
        file.write("\nthe grass and the sky")


def joined(folder: Path) -> None:
    (folder / "c.txt").write_text("the sky")


def other_and_back(folder: Path) -> None:
    before = (folder / "b.txt").read_bytes()
    (folder / "b.txt").write_bytes(before.upper())
    (folder / "b.txt").write_bytes(before)
    os.utime(folder / "b.txt", ns=(1, 1))  # clocks of file systems tick slowly


@pytest.mark.parametrize("moment", ["before", "between the passes"])
@pytest.mark.parametrize("change", [replaced, appended, joined, other_and_back])
def test_a_corpus_that_changes_while_it_is_planned_is_refused(extract, change, moment) -> None:
    (folder,) = extract.corpus
    run = extract.open_run()

    def at_the_second_pass(message: str) -> None:
        if moment != "before" and "collecting" in message:
            change(folder)

    if moment == "before":
        change(folder)
    if (moment, change) in (("before", other_and_back), ("between the passes", joined)):
        extract.plan(run, at_the_second_pass)  # it touches nothing that was read
    else:
        with pytest.raises(InputError, match=r"--corpus: changed"):
            extract.plan(run, at_the_second_pass)
        assert not (extract.out / "run.json").exists()
        run = extract.open_run()  # the folder is free for what the corpus is now
        extract.plan(run, silent)
    assert (
        json.loads((extract.out / "zarr.json").read_text())["attributes"]["corpus_hash"]
        == run.inputs["corpus"]["sha256"]
    )


def test_a_corpus_that_was_only_read_is_not_refused(extract) -> None:
    run = extract.open_run()
    for file in extract.corpus[0].iterdir():
        file.read_bytes()
    extract.plan(run, silent)
    assert run.plan is not None


def test_images_that_change_before_another_process_plans_are_refused(tiny_vlm_folder, tmp_path) -> None:
    shapes.write_images(tmp_path / "images", "train", 2)
    job = AnalyzeJob(str(tiny_vlm_folder), tmp_path / "images", tmp_path / "run", lenses="logit")
    run = job.open_run()
    shapes.write_images(tmp_path / "images", "validation", 3)
    with pytest.raises(InputError, match=r"--images .*: changed since the command began"):
        job_of(run).plan(run, silent)
    assert not (job.out / "run.json").exists()


def test_another_store_in_its_place_is_refused(tiny_vlm_folder, extract, tmp_path) -> None:
    shapes.write_images(tmp_path / "images", "train", 1)
    extract.plan(extract.open_run(), silent)
    job = AnalyzeJob(str(tiny_vlm_folder), tmp_path / "images", tmp_path / "run", store=extract.out, lenses="latent")
    run = job.open_run()
    shutil.rmtree(extract.out)
    other = dataclasses.replace(extract, per_token=1)
    other.plan(other.open_run(), silent)
    with pytest.raises(InputError, match="put that store back"):
        job_of(run).plan(run, silent)


def test_captions_that_change_before_another_process_plans_are_refused(tmp_path) -> None:
    shapes.write_images(tmp_path / "images", "train", 2)
    save_llm("llama", tmp_path / "llm")
    save_encoder("clip", tmp_path / "encoder")
    parts = str(tmp_path / "llm"), str(tmp_path / "encoder")
    run = TrainJob(*parts, str(tmp_path / "images"), tmp_path / "run", vit_layers="-2").open_run()
    (table,) = (path for path in (tmp_path / "images").iterdir() if path.suffix in (".csv", ".jsonl", ".tsv"))
    table.write_text(table.read_text().replace("a ", "one ", 1))
    with pytest.raises(InputError, match=r"--data .*: changed since the command began"):
        job_of(run).plan(run, silent)


def test_another_prompt_or_other_results_in_the_place_of_a_judges_are_refused(synthetic_results, tmp_path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(f"Which of {PLACEHOLDER} fit?")
    results = tmp_path / "results"
    shutil.copytree(synthetic_results.path, results)
    job = JudgeJob(
        results,
        tmp_path / "run",
        "http://127.0.0.1:9/v1#judge-1",
        patches=9,
        question=QuestionSettings(prompt=prompt),
        policy=RequestPolicy(max_cost=1.0, prices=prices(tmp_path)),
    )
    run = job.open_run()
    job.plan(run, silent)
    prompt.write_text(prompt.read_text() + " Think.")
    with pytest.raises(InputError, match=r"--prompt .*: found prompt.txt .* began with prompt.txt"):
        JudgedSample(job_of(run), run)
    prompt.write_text(prompt.read_text().removesuffix(" Think."))
    JudgedSample(job_of(run), run)
    content = json.loads((results / "run.json").read_text())
    del content["crc32"]
    write_json(results / "run.json", content | {"run_id": "0" * 16})
    for path in [results / "plan.json", *(results / "receipts").iterdir()]:
        content = json.loads(path.read_text())
        del content["crc32"]
        write_json(path, content | {"run_id": "0" * 16})
    with pytest.raises(InputError, match=r"belongs|found run 0000|plan_id"):
        JudgedSample(job_of(run), run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"new_setting": 3},
            r"run.json: config.new_setting is not a setting of this lenscore .*made by lenscore .* \(commit \w+",
        ),
        ({"per_token": "many"}, 'run.json: config.per_token = "many": input should be a valid integer'),
        ({"per_token": -1}, "--per-token: found -1, expected at least 1"),
        ({"model": None}, "config.model = null: input should be a valid string"),
    ],
)
def test_settings_that_this_version_does_not_know_are_refused(extract, monkeypatch, change, message) -> None:
    monkeypatch.setattr("storage_layouts.run_identity.source_commit", lambda: "0123abc")
    run = extract.open_run()
    run.settle()
    content = json.loads((extract.out / "run.json").read_text())
    del content["crc32"]
    content["config"] |= change
    write_json(extract.out / "run.json", content)
    with pytest.raises(InputError, match=message):
        job_of(RunFolder.open(extract.out))
