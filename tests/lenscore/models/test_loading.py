"""Loading models and choosing layers: errors, dtypes and devices."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from safetensors.torch import load_file, save_file

import lenscore
from lenscore.lenses import LogitLens
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.layers import auto_layers, paper_layers
from lenscore.models.loading import Vlm, load_model, load_vlm
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder
from tests.causal_families import causal_lm
from tests.conftest import make_tokenizer


def copy_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
def test_a_vlm_keeps_the_dtype_of_its_checkpoint(tiny_vlm: Vlm, tmp_path: Path, stored: torch.dtype) -> None:
    folder = copy_of(Path(tiny_vlm.name), tmp_path / "vlm")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: weight.to(stored) for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = str(stored).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config))
    assert {weight.dtype for weight in load_vlm(folder, "cpu").model.parameters()} == {stored}
    assert load_vlm(folder, "cpu", torch.float32).model.dtype == torch.float32


def test_weights_that_are_missing_or_damaged_are_refused_not_made_up(tiny_vlm: Vlm, tmp_path: Path) -> None:
    folder = copy_of(Path(tiny_vlm.name), tmp_path / "vlm")
    file = folder / "model.safetensors"
    weights = load_file(file)
    lost = next(name for name in weights if "layers.2.mlp.up_proj" in name)
    save_file({name: weight for name, weight in weights.items() if name != lost}, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 of the model's weights, e\.g\. .*layers\.2\.mlp\.up_proj"):
        load_vlm(folder, "cpu")
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(InputError, match="its weights cannot be loaded: ") as caught:
        load_vlm(folder, "cpu")
    assert "\n" not in str(caught.value)


def test_a_head_that_is_missing_because_it_is_tied_is_named_so(tmp_path: Path) -> None:
    """Older checkpoints of some families have no head in their file, and nothing about it in their configuration."""
    causal_lm("gpt2").save_pretrained(tmp_path / "m")
    make_tokenizer().save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(
        InputError, match=r'lacks 1 of .* e\.g\. lm_head\.weight; .*needs "tie_word_embeddings": true\)$'
    ):
        load_model(tmp_path / "m", "cpu")


def test_a_model_without_an_image_processor_is_refused(tiny_vlm: Vlm, tmp_path: Path) -> None:
    folder = copy_of(Path(tiny_vlm.name), tmp_path / "vlm")
    for name in ("processor_config.json", "preprocessor_config.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"--model .*processor"):
        load_vlm(folder, "cpu")


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_quantization_that_cannot_be_had_is_one_line(
    tiny_vlm: Vlm, tiny_llm_folder: Path, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lenscore.models.weights.is_bitsandbytes_available", lambda: False)
    with pytest.raises(InputError, match=f"--quantization {quantization}: needs the library bitsandbytes"):
        load_vlm(tiny_vlm.name, None, quantization=quantization)
    monkeypatch.setattr("lenscore.models.weights.is_bitsandbytes_available", lambda: True)
    with pytest.raises(InputError, match=f"--quantization {quantization}: needs a CUDA GPU, found the device 'cpu'"):
        load_model(tiny_llm_folder, "cpu", quantization=quantization)


def test_a_model_in_pieces_on_several_devices_is_read_as_one_in_a_piece(tiny_vlm: Vlm) -> None:
    """What accelerate does to a model that is spread: a hook around every module (here all of them on the CPU)."""
    whole = load_vlm(tiny_vlm.name, "spread")
    model = dispatch_model(whole.model, {"model": "cpu", "lm_head": "cpu"}, force_hooks=True)
    spread = Vlm(whole.name, model, whole.tokenizer, whole.processor)
    assert hasattr(spread.decoder.norm, "_hf_hook")
    ids = torch.tensor([[1, 5, 7, 12]])
    ours, theirs = lenscore.get_hidden_states(model, ids), lenscore.get_hidden_states(tiny_vlm.model, ids)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    lenses = [LogitLens.from_model(vlm) for vlm in (spread, tiny_vlm)]
    assert not hasattr(lenses[0]._norm, "_hf_hook")
    assert torch.equal(*(lens.logits(ours[3][0]) for lens in lenses))


def test_the_papers_layers_for_every_depth() -> None:
    """PRIOR_ART section 2: three deep models have their own lists."""
    assert paper_layers(60, visual=False) == (1, 2, 4, 8, 16, 30, 45, 59)
    assert paper_layers(64, visual=True) == (0, 1, 2, 4, 8, 16, 32, 48, 56, 62, 63)
    assert paper_layers(80, visual=False) == (1, 2, 4, 8, 16, 40, 60, 72, 78, 79)
    assert paper_layers(40, visual=False) == (1, 2, 4, 8, 16, 24, 38, 39)
    assert paper_layers(62, visual=True) == (0, 1, 2, 4, 8, 16, 31, 46, 60, 61)
    assert auto_layers(64) == [1, 2, 4, 8, 16, 24, 62, 63]  # as the latentlens library
    for depth in range(1, 130):
        contextual, visual = paper_layers(depth, visual=False), paper_layers(depth, visual=True)
        assert visual == tuple(sorted({0, *contextual}))
        assert all(0 <= layer < depth for layer in visual)
        assert depth - 1 in visual
        assert depth > 48 or list(contextual) == auto_layers(depth)


def test_the_model_of_a_run_is_at_its_commit(tmp_path, tiny_llm_folder):
    config = {"model": "me/vlm", "revision": "a-branch", "dtype": "bfloat16", "quantization": "8bit"}
    run = RunFolder.create(tmp_path / "hub", "analyze", config, {"model": {"revision": "c0ffee"}})
    said = f"--results {run.path}: its model"
    assert Checkpoint.of_run(run, True) == Checkpoint("me/vlm", "c0ffee", True, "bfloat16", "8bit", said)
    assert Checkpoint.of_run(run, False, "float32").dtype == "float32"
    run.inputs["model"]["revision"] = None  # of a version that did not record it
    assert Checkpoint.of_run(run, False).revision == "a-branch"
    run.config["model"] = str(tiny_llm_folder)
    assert Checkpoint.of_run(run, False).revision is None
