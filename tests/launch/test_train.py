"""`lens train` as a user types it: killed and repeated, on several processes, from the shipped files, refused."""

from __future__ import annotations

import random
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks.chaos import differences, inject_faults
from launch import flags, train
from launch.flags import parse, read_yaml
from launch.stages import command_of
from lenscore import shapes
from lenscore.models.layers import MODEL_DEFAULTS
from lenscore.training.curves import smoothed
from storage_layouts.errors import InputError
from tests.counted_steps import CountedSteps
from tests.forked_workers import run
from tests.training_parts import save_encoder, save_shapes_parts

CONFIGS = flags.SHIPPED


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    save_shapes_parts(folder)
    shapes.write_images(folder / "train", "train", 100)
    return folder


def flags_for(world: Path) -> list[str]:
    return [
        *("--llm", str(world / "llm"), "--vision", str(world / "vit"), "--vit-layers=-1,-3"),
        *("--data", str(world / "train"), "--prompt", "describe:", "--steps", "18", "--steps-per-shard", "3"),
        *("--batch-size", "8", "--micro-batch-size", "4", "--warmup-steps", "5", "--learning-rate", "5e-3"),
        *("--precision", "float32", "--device", "cpu"),
    ]


@pytest.fixture(scope="module")
def undisturbed(world):
    assert train.main([*flags_for(world), "--out", str(world / "run")]) == 0
    return world / "run"


def test_it_learns_and_draws_its_curves(undisturbed):
    curves = pd.read_csv(undisturbed / "curves.csv")
    assert curves["step"].tolist() == list(range(18))
    assert curves["loss"][-4:].mean() < 0.75 * curves["loss"][:4].mean()
    assert (undisturbed / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert not (undisturbed / "state").exists()


def test_a_kill_costs_the_span_in_hand_and_no_more(world, undisturbed, tmp_path):
    """Kills in the first span, a middle one and the last: of the worker, of everything, of the worker again."""
    counted = CountedSteps(tmp_path / "hook", {2: "worker", 10: "group", 21: "worker"})
    command = [sys.executable, "-m", "launch.cli", "train", *flags_for(world), "--out", str(tmp_path / "run")]
    codes = [run(command, env=counted.environment, start_new_session=True).returncode for _ in range(2)]
    assert codes == [-signal.SIGKILL, 0]
    lives = [range(2), range(8), range(6, 17), range(15, 18)]
    assert counted.computed == [step for life in lives for step in life]
    assert differences(tmp_path / "run", undisturbed) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_change_nothing(world, undisturbed):
    outcome = inject_faults("train", flags_for(world), undisturbed, world / "besieged", 2, random.Random(5))
    assert outcome.faults.total() == 2
    assert outcome.differing == []


@pytest.mark.slow
def test_two_processes_compute_the_same(world, undisturbed):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "launch.train"]
    run([*command, *flags_for(world), "--out", str(world / "both")], check=True, capture_output=True)
    alone, together = (pd.read_csv(path / "curves.csv") for path in (undisturbed, world / "both"))
    assert np.allclose(alone, together, rtol=1e-4)
    assert {path.name for path in (world / "both/model").iterdir()} == {
        path.name for path in (undisturbed / "model").iterdir()
    }


def shipped(name: str, *flags: str):
    argv = ["--config", str(CONFIGS / name), "--data", "captions", "--out", "run", *flags]
    return parse(command_of(train.TrainSettings), argv, "lens train").settings


def test_the_shipped_files_are_the_grid_and_its_ablations():
    names = {path.name for path in CONFIGS.glob("*.yaml")}
    grid = {f"{llm}-{vision}.yaml" for llm in ("olmo", "llama", "qwen") for vision in ("clip", "dinov2", "siglip")}
    jobs = {name: shipped(name) for name in names - {"base.yaml"}}
    assert grid < jobs.keys()
    assert {jobs[name].llm for name in grid} == set(MODEL_DEFAULTS)
    assert len({(jobs[name].llm, jobs[name].vision) for name in grid}) == 9
    for job in jobs.values():
        assert (job.steps, job.batch_size, job.learning_rate, job.precision) == (12000, 8, 2e-4, "bfloat16")
        layers = [int(layer) for layer in job.vit_layers.split(",")]
        assert layers[0] - layers[1] == 7
    base = jobs["olmo-clip.yaml"]
    differing = {
        name.removeprefix("olmo-clip-").removesuffix(".yaml"): {
            field for field in vars(job) if getattr(job, field) != getattr(base, field)
        }
        for name, job in jobs.items()
        if name not in grid
    }
    assert differing == {
        **{"linear": {"connector"}, "first-sentence": {"first_sentence"}, "seed10": {"seed"}, "seed11": {"seed"}},
        **{"unfreeze": {"unfreeze_llm"}, "earlier-6": {"vit_layers"}, "earlier-10": {"vit_layers"}},
        **{"top-bottom": {"prompt_column"}},
    }


def test_the_command_line_comes_before_the_file():
    assert shipped("qwen-siglip.yaml", "--vit-layers=-3,-4", "--steps", "5").vit_layers == "-3,-4"


def test_inheriting_in_circles_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"inherits": "b.yaml"}))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"inherits": "a.yaml", "seed": 1}))
    with pytest.raises(InputError, match="inherits from"):
        read_yaml(tmp_path / "a.yaml")


def test_mistakes_are_one_line(world, undisturbed, tmp_path, capsys):
    def refusal(*more: str, out: Path = tmp_path / "run") -> str:
        capsys.readouterr()
        assert train.main([*flags_for(world), "--out", str(out), *more]) == 2
        first, message = capsys.readouterr().err.strip().split("error: ", 1)
        assert set(first.splitlines()) <= {"train: checking the inputs", "train: planning: 100 images with captions"}
        return message

    assert "accelerate launch --num_processes 2" in refusal("--workers", "2")
    assert "no such file or folder" in refusal("--data", str(tmp_path / "nowhere"))
    assert "is no causal language model" in refusal("--llm", str(world / "vit"))
    assert "has no square patches" in refusal("--vision", str(world / "llm"))
    assert "has hidden states 0 to 4" in refusal("--vit-layers=7")
    assert "expected numbers as in -2,-9" in refusal("--vit-layers", "last")
    assert "(64 of the image), but --max-tokens is 40; expected room" in refusal("--max-tokens", "40")
    assert "--batch-size: found 0, expected at least 1" in refusal("--batch-size", "0")
    save_encoder("clip", tmp_path / "mute")
    (tmp_path / "mute/preprocessor_config.json").unlink()
    assert "no image processor" in refusal("--vision", str(tmp_path / "mute"))
    assert "needs --image-fit" in refusal("--image-size", "64")
    again = refusal("--learning-rate", "1e-3", out=undisturbed)
    assert "belongs to another run" in again
    assert "learning_rate" in again


def test_the_drawn_curve_begins_where_the_losses_do():
    losses = pd.Series(range(120, 0, -1), dtype=float)
    assert smoothed(losses).iloc[:60].tolist() == pytest.approx(losses.iloc[:60], abs=1)
    assert len(smoothed(losses.iloc[:3])) == 3
