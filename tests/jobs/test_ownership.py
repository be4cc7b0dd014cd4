"""Two commands with different settings and one folder: the one that lost it writes nothing into it, at any stage."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from jobs.analyze_job import AnalyzeJob
from jobs.base import Job, command_line
from jobs.extract_job import ExtractJob
from jobs.judge_job import JudgeJob
from jobs.train_job import TrainJob
from jobs.work import work
from launch.flags import parse
from launch.stages import command_of
from lenscore import shapes
from lenscore.judging.questions import QuestionSettings
from lenscore.judging.spending.request_policy import RequestPolicy
from storage_layouts.budget import Budget
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.verification import verify
from tests.conftest import WORDS
from tests.judge_runs import prices
from tests.training_parts import save_encoder, save_llm

STAGES = ("extract", "analyze", "judge", "asking judge", "train")


@pytest.fixture(scope="module")
def world(tiny_llm_folder, tiny_vlm_folder, synthetic_results, tmp_path_factory) -> dict[str, list[Job]]:
    """For every stage two jobs with different settings, still without a folder of their own."""
    folder = tmp_path_factory.mktemp("world")
    for name, words in (("large", WORDS), ("small", WORDS[:4])):
        (folder / f"{name}.txt").write_text("\n".join(f"the {word} on the {word}" for word in words))
    for name, count in (("many", 4), ("few", 2)):
        shapes.write_images(folder / name, "train", count)
    save_llm("llama", folder / "llm")
    save_encoder("clip", folder / "encoder")
    out, llm, vlm = Path("out"), str(tiny_llm_folder), str(tiny_vlm_folder)
    asking = JudgeJob(synthetic_results.path, out, "http://127.0.0.1:9/v1#judge-1", patches=9)
    terms = [RequestPolicy(max_cost=cost, prices=prices(folder)) for cost in (0.25, 0.5)]
    return {
        "extract": [
            ExtractJob(llm, (str(folder / f"{name}.txt"),), out, rows_per_shard=16) for name in ("large", "small")
        ],
        "analyze": [AnalyzeJob(vlm, folder / name, out, lenses="logit") for name in ("many", "few")],
        "judge": [JudgeJob(synthetic_results.path, out, patches=patches) for patches in (30, 12)],
        "asking judge": [dataclasses.replace(asking, seed=seed, policy=terms) for seed, terms in enumerate(terms)],
        "train": [
            TrainJob(str(folder / "llm"), str(folder / "encoder"), str(folder / name), out, steps=1, vit_layers="-2")
            for name in ("many", "few")
        ],
    }


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("longer", [0, 1])
@pytest.mark.parametrize("stage", STAGES)
def test_a_command_that_lost_its_folder_writes_nothing_into_it(world, tmp_path, stage, longer):
    slow, fast = (dataclasses.replace(world[stage][i], out=tmp_path) for i in (longer, 1 - longer))
    lost = slow.open_run()
    run = fast.open_run()

    def overtaken(message: str) -> None:  # said before the planner is ready to write
        fast.plan(run, lambda message: None)
        if stage in ("extract", "judge") and not run.is_complete():  # quick enough to be completed
            assert work(run, lambda: fast.open_worker(run, "cpu"), "worker").exit_code == 0
            assert verify(tmp_path).problems == []
        after.update(snapshot(tmp_path))

    after: dict[str, bytes] = {}
    with pytest.raises(InputError, match="belongs to another run"):
        slow.plan(lost, overtaken)
    assert snapshot(tmp_path) == after
    before = snapshot(tmp_path)
    for action in (lambda: slow.plan(lost, lambda message: None), slow.open_run, lost.settle):
        with pytest.raises(InputError) as refused:
            action()
        first, *table = str(refused.value).splitlines()
        assert "belongs to another run" in first
        assert len(table) > 1
        assert "in the folder" in table[0]
    assert snapshot(tmp_path) == before
    if stage == "asking judge":
        budget = Budget(tmp_path / "budget")
        budget.refresh()
        assert budget.limit == fast.policy.max_cost * 1e9
    again = fast.open_run()
    fast.plan(again, lambda message: None)
    assert again.run_id == run.run_id


@pytest.mark.parametrize("stage", STAGES)
def test_the_recorded_command_gives_the_same_job(world, tmp_path, monkeypatch, stage):
    monkeypatch.chdir(tmp_path)
    job = world[stage][0]
    command = job.open_run().created["command"]
    lens, verb, *flags = shlex.split(command)
    assert (lens, verb) == ("lens", job.stage)
    parsed = parse(command_of(type(job)), flags, "lens").settings
    assert parsed == dataclasses.replace(job, out=tmp_path / "out")
    monkeypatch.chdir("/")
    assert parsed.open_run().run_id == RunFolder.open(tmp_path / "out").run_id


def test_a_command_with_unusual_settings_is_quoted_and_complete(synthetic_results: LensResults, tmp_path: Path) -> None:
    corpus = str(tmp_path / "a b.txt"), str(tmp_path / "c")
    job = ExtractJob("m", corpus, tmp_path / "o", layers="-1,-2", causal=False, limit=3)
    judge = JudgeJob(
        synthetic_results.path,
        tmp_path / "judge's",
        "openai:gpt-5",
        question=QuestionSettings(describe="phrase"),
        policy=RequestPolicy(max_cost=1.5, no_limit=False, prices=tmp_path / "prices.yaml"),
    )
    for made in (job, judge):
        _, _, *flags = shlex.split(command_line(made))
        assert parse(command_of(type(made)), flags, "lens").settings == made
