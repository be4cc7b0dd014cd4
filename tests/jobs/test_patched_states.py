"""Patchscopes in the analyze stage, on a tiny random LLaVA."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

from jobs.analyze_job import AnalyzeJob
from jobs.judge_job import JudgeJob
from jobs.judged_sample import JudgedSample
from jobs.work import work
from launch.estimate import estimate, estimate_table
from launch.terminal import Terminal
from lenscore.judging.questions import QuestionSettings
from lenscore.judging.spending.request_policy import RequestPolicy
from lenscore.lenses.patchscopes import PROMPTS
from lenscore.models.loading import Vlm
from lenscore.reports.results_table import write_results_table
from lenscore.viewer.readings import RunReadings
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from tests.conftest import WORDS
from tests.judge_runs import started
from tests.run_bytes import bytes_of

DEPTH, LAYERS = 4, (0, 2, 4)
PROMPT = "dog dog cat cat tree tree house"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(2)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def flags(tiny_vlm_folder: Path, images: Path) -> dict[str, Any]:
    return {
        **{"model": str(tiny_vlm_folder), "images": images, "lenses": "logit,patchscopes", "layers": "0,2,final"},
        **{"patchscope_prompt": PROMPT, "images_per_shard": 1, "tokens": "image,text", "self_test": False},
    }


def complete(job: AnalyzeJob, order: tuple[int, ...] = ()) -> RunFolder:
    run = job.open_run()
    job.plan(run, lambda message: None)
    for index in order:  # each by a worker of its own
        run.write_receipt(job.open_worker(run, "cpu").run(run.require_plan().shard(index)))
    assert not work(run, lambda: job.open_worker(run, "cpu"), "test").refused
    run.require_complete()
    return run


@pytest.fixture(scope="module")
def run(flags: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return complete(AnalyzeJob(out=tmp_path_factory.mktemp("patchscopes") / "run", **flags))


def test_it_reads_what_the_whole_prompt_reads(
    run: RunFolder, flags: dict[str, Any], tiny_vlm: Vlm, tmp_path: Path
) -> None:
    """In float64, with a hook, one forward pass for each patch; workers and the order of shards change no byte."""
    others = complete(AnalyzeJob(out=tmp_path / "others", **flags), (2, 0))
    assert bytes_of(run.path) == bytes_of(others.path)
    results = LensResults.open(run.path)
    assert results.distribution_lenses == ("logit", "patchscopes")
    frame = results.results(image_ids=[0], lens="patchscopes").to_pandas()
    picture = Image.open(results.images()["path"][0].as_py())
    inputs = tiny_vlm.processor(
        images=[picture], text=[f"<image> {AnalyzeJob(out=tmp_path, **flags).prompt}"], return_tensors="pt"
    )
    ids = tiny_vlm.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    words = [tiny_vlm.tokenizer.get_vocab()[word] for word in WORDS]
    with torch.no_grad():
        hidden = tiny_vlm.model(**inputs, output_hidden_states=True).hidden_states
        visual = (inputs["input_ids"][0] == 4).nonzero().flatten()
        exact = tiny_vlm.model.double()
        for layer in LAYERS[:-1]:
            scores = np.stack(frame[frame["layer"] == layer]["scores"])
            for place, state in enumerate(hidden[layer][0, visual]):
                logits = patched_logits(exact, ids, layer, state.double())[words]
                np.testing.assert_allclose(scores[place], logits.topk(5).values.numpy(), rtol=1e-4, atol=1e-4)
        exact.float()
    table = results.results().to_pandas()
    final = table[table["layer"] == DEPTH].set_index(["image_id", "row", "col", "lens"])["scores"].unstack()
    assert all(np.array_equal(a, b) for a, b in zip(final["logit"], final["patchscopes"], strict=True))


def patched_logits(model: Any, ids: torch.Tensor, layer: int, state: torch.Tensor, place: int = -1) -> torch.Tensor:
    def patch(_module: Any, args: Any) -> Any:
        hidden = args[0].clone()
        hidden[0, place] = state
        return (hidden, *args[1:])

    hook = model.model.language_model.layers[layer].register_forward_pre_hook(patch)
    logits = model(input_ids=ids).logits[0, -1]
    hook.remove()
    return logits


def test_a_prompt_by_its_name_is_its_text(flags: dict[str, Any], tmp_path: Path) -> None:
    """So the run of one is resumed by the other."""
    usual = flags | {"out": tmp_path / "run"}
    run_id = AnalyzeJob(**usual | {"patchscope_prompt": None}).open_run().run_id
    for prompt in ("identity", PROMPTS["identity"]):
        assert AnalyzeJob(**usual | {"patchscope_prompt": prompt}).open_run().run_id == run_id
    assert AnalyzeJob(**usual).open_run().run_id != run_id
    assert "patchscope_prompt" not in AnalyzeJob(**usual | {"patchscope_prompt": None, "lenses": "logit"}).recorded()


def test_a_prompt_that_does_not_fit_is_one_line(flags: dict[str, Any], tmp_path: Path) -> None:
    usual = flags | {"out": tmp_path / "run"}
    with pytest.raises(InputError, match="--lenses logit: has no patchscopes; add it, or leave --patchscope-prompt"):
        AnalyzeJob(**usual | {"lenses": "logit"})
    with pytest.raises(InputError, match="with braces around the token to replace"):
        AnalyzeJob(**usual | {"patchscope_prompt": "dog {}"}).open_run()


def test_the_plan_says_what_it_costs(run: RunFolder, flags: dict[str, Any], tmp_path: Path) -> None:
    job = AnalyzeJob(out=tmp_path / "run", **flags)
    found = estimate(job, 1, "cpu", run.path, Terminal(quiet=True))
    console = Console(width=200)
    with console.capture() as captured:
        console.print(estimate_table(found))
    assert "each token runs 6 times through a block, behind a prompt of 8 tokens" in captured.get()  # 4 + 2 + 0
    assert "as in 1.5 more forward passes" in captured.get()
    without = AnalyzeJob(out=tmp_path / "run", **flags | {"lenses": "logit", "patchscope_prompt": None})
    assert without.extra_work() == {}
    keys = 2 * DEPTH * 256 * 8 * 32 * 4 * 2
    assert (job.worker_bytes() or 0) - (without.worker_bytes() or 0) > keys


@pytest.fixture(scope="module")
def described(flags: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("described") / "run"
    return complete(AnalyzeJob(out=out, **flags, patchscope_tokens=3))


def test_descriptions_continue_the_prompt(described: RunFolder, run: RunFolder, tiny_vlm: Vlm) -> None:
    """Each token by a forward pass of everything so far; the candidates are those of a run without descriptions."""
    results = LensResults.open(described.path)
    assert results.results().equals(LensResults.open(run.path).results())
    texts = results.descriptions("patchscopes", image_ids=[0])
    assert len(texts) == 4 * 4
    ids = tiny_vlm.tokenizer(PROMPT)["input_ids"]
    candidates = [2, *(tiny_vlm.tokenizer.get_vocab()[word] for word in WORDS)]  # and the end of the text
    with torch.no_grad():
        inputs = tiny_vlm.processor(
            images=[Image.open(results.images()["path"][0].as_py())], text=["<image> a"], return_tensors="pt"
        )
        hidden = tiny_vlm.model(**inputs, output_hidden_states=True).hidden_states
        visual = (inputs["input_ids"][0] == 4).nonzero().flatten()
        for place in (0, 7):
            for number, layer in enumerate(LAYERS[:-1]):
                found: list[int] = []
                while len(found) < 3 and 2 not in found:
                    before = torch.tensor([[*ids, *found]])
                    logits = patched_logits(
                        tiny_vlm.model, before, layer, hidden[layer][0, visual[place]], len(ids) - 1
                    )
                    found.append(candidates[int(logits[candidates].argmax())])
                expected = tiny_vlm.tokenizer.decode([one for one in found if one != 2])
                assert texts[0, 0, place // 4, place % 4][number] == expected


def test_descriptions_are_shown_exported_and_judged(
    described: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")  # nothing is asked
    results = LensResults.open(described.path)
    of_place = results.descriptions("patchscopes")[0, 0, 1, 2]
    _, reading = next(RunReadings(results).readings([0]))
    lens = reading.lenses[1]
    for layer, text in enumerate(of_place):
        word = lens.words[lens.which[layer, 6, 0]]
        assert (word.sentence, word.sentence[word.start : word.end]) == (text, word.text)
        assert not lens.words[lens.which[layer, 6, 1]].sentence
    _, told = next(RunReadings(results).texts([0]))
    in_text = results.descriptions("patchscopes", [0], "text_descriptions")
    assert [told.lenses[1].words[one].sentence for one in told.lenses[1].which[1, :, 0]] == [
        texts[1] for _, texts in sorted(in_text.items())
    ]
    write_results_table(results, tmp_path / "table.parquet")
    table = pd.read_parquet(tmp_path / "table.parquet").query("image_id == 0 and row == 1 and col == 2 and layer == 2")
    sentences = table.set_index(["lens", "rank"])["sentence"]
    assert sentences["patchscopes", 1] == of_place[1]
    assert sentences.notna().sum() == 1
    job = JudgeJob(results.path, tmp_path / "judged", "openai:gpt-5", question=QuestionSettings(describe="phrase"))
    judging = started(dataclasses.replace(job, policy=RequestPolicy(max_cost=1.0), patches=3))
    sample = JudgedSample(job, judging)
    texts = results.descriptions("patchscopes")
    items = range(judging.require_plan().items)
    asked = [one for one in sample.asked(items) if (one.lens, one.control) != ("logit", "")]
    for one in (one for one in asked if one.control == ""):
        text = texts[sample.places[one.item].key][LAYERS.index(one.layer)]
        if text:  # empty where the model ends at once
            assert one.words[0].replace("[", "").replace("]", "") == text
        assert one.words[0].startswith("[") == bool(text)
        assert not any("[" in word for word in one.words[1:])
    assert any(one.control == "other-patch" and one.words[0].startswith("[") for one in asked)
