"""What no worker could do is refused before the folder is taken, with its true cause."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from jobs.analyze_job import AnalyzeJob
from jobs.extract_job import ExtractJob
from lenscore.models.loading import load_model
from lenscore.single_image.analysis import analyze_image
from storage_layouts.errors import InputError
from tests.conftest import WORDS, make_llama, make_tokenizer
from tests.jobs.test_analyze import complete


@pytest.fixture(scope="module")
def store(tiny_llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    (folder / "corpus.txt").write_text("\n".join(f"the {word}" for word in WORDS[:4]))
    complete(ExtractJob(str(tiny_llm_folder), (folder / "corpus.txt",), folder / "s.zarr", layers="1,2"))
    return folder / "s.zarr"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 99}, r"^--top-k 99: .*s\.zarr has (\d+) candidates; expected 1 to \1$"),
        (
            {"top_k": 36, "lenses": "logit"},
            r"^--top-k 36: the vocab.* has (\d+) candidates; expected 1 to \1$",
        ),
        (
            {"prompt": "What is <image> in this?"},
            "^--prompt: holds '<image>', which stands for the image",
        ),
        (
            {"prompt": "the dog " * 120, "lenses": "logit"},
            "^(.*/a.png|image): 257 tokens with its prompt; the model reads at most 256; shorten --prompt, or",
        ),
    ],
    ids=["rows", "tokens", "placeholder", "context"],
)
def test_analyze_and_show(settings, message, tiny_vlm_folder, store, tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    lens = {} if "lenses" in settings else {"lenses": "latent"}
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a.png\n")
    job = AnalyzeJob(str(tiny_vlm_folder), tmp_path / "list.txt", tmp_path / "r", store, **lens, **settings)
    with pytest.raises(InputError, match=message):
        job.open_run()
    assert not (tmp_path / "r").exists()
    with pytest.raises(InputError, match=message):
        analyze_image(tmp_path / "a.png", str(tiny_vlm_folder), store, **lens, **settings)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_weight_that_is_no_number_is_named_and_not_called_bidirectional(dtype, tmp_path):
    make_llama().save_pretrained(tmp_path / "m")
    make_tokenizer().save_pretrained(tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] = torch.nan
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    (tmp_path / "c.txt").write_text("the red cat\nthe dog\n")
    job = ExtractJob(str(tmp_path / "m"), (tmp_path / "c.txt",), tmp_path / "s.zarr", dtype=dtype)
    run = job.open_run()
    job.plan(run, print)
    with pytest.raises(InputError) as refusal:
        job.open_worker(run, "cpu")
    assert "hidden states are not finite: its weight model.layers.1.mlp.up_proj.weight holds NaN" in str(refusal.value)
    assert "--no-causal" not in str(refusal.value)
    assert dtype not in str(refusal.value)


def test_a_weight_of_the_encoder_that_is_no_number_is_named_by_the_self_test(tiny_vlm_folder, tmp_path):
    shutil.copytree(tiny_vlm_folder, tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("layers.0.mlp.fc1.bias"))
    weights[name][3] = torch.nan
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        InputError, match=r"layer 0 at position \d+ is not finite: its weight .*mlp\.fc1\.bias holds NaN"
    ):
        analyze_image(Image.new("RGB", (32, 32)), str(tmp_path / "m"), lenses="logit", device="cpu")


def test_a_pickle_with_code_says_so_and_runs_nothing(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    make_llama().save_pretrained(tmp_path / "m")
    make_tokenizer().save_pretrained(tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "model.safetensors").unlink()
    torch.save({**weights, "extra": Payload()}, tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(InputError) as refusal:
        load_model(tmp_path / "m", "cpu")
    assert str(refusal.value) == (
        f"--model {tmp_path}/m: its weights cannot be loaded: it holds code (posix.system) and not plain "
        "tensors alone; nothing of it was run; expected safetensors, or a pickle of tensors"
    )
    assert not (tmp_path / "ran").exists()
