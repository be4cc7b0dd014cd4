"""Patchscopes in the analyze stage, on a tiny random LLaVA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from jobs.analyze_job import AnalyzeJob
from jobs.work import work
from launch.estimate import estimate, estimate_table
from launch.terminal import Terminal
from lenscore.lenses.patchscopes import PROMPTS
from lenscore.models.loading import Vlm
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from tests.conftest import WORDS
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


def patched_logits(model: Any, ids: torch.Tensor, layer: int, state: torch.Tensor) -> torch.Tensor:
    def patch(_module: Any, args: Any) -> Any:
        hidden = args[0].clone()
        hidden[0, -1] = state
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
