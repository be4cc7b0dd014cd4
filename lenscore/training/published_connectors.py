"""Connectors that others published, in the layout of McGill-NLP/latentlens-connectors, read as plain data.

    olmo-vit/connector.pt    {"vision_backbone.image_projector.w1.weight": Tensor, ...w2..., ...w3...,
                              "transformer.wte.new_embedding": Tensor [128, d_llm], "vision_backbone.pad_embed": Tensor}
    olmo-vit/config.yaml     how it was trained

There the connector's output is added to the embedding of the patch token, which is row 2 of new_embedding; it is read
too. The rows of the start, end and column tokens, which surround the patches there, and pad_embed, which marks patches
of padding, have no place in a model without these and are left out: visual tokens enter the language model as there
(but for those of padding), and deeper layers see a context without these tokens.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from lenscore.models.source import offline_if_unreachable
from storage_layouts.errors import InputError, first_line

PREFIXES = ("vision_backbone.image_projector.", "model.multi_modal_projector.layers.", "")
NEW_EMBEDDING = "transformer.wte.new_embedding"
PATCH_ROW = 2
PATCH_EMBEDDING = "model.multi_modal_projector.patch_embedding"
"""What ours is called in the models of `lens train`."""
FILE = "connector.pt"


@dataclass(frozen=True)
class PublishedConnector:
    """A connector's weights by their own names (w1.weight, ...), and what is added to its output [dim], if anything."""

    weights: dict[str, Tensor]
    patch_embedding: Tensor | None


def read_connector(source: str, revision: str | None = None) -> PublishedConnector:
    """A connector from a file, a folder, or the Hub.

    A Hub name is OWNER/REPOSITORY/FOLDER, `revision` a branch, a tag or a commit there. Files are connector.pt, read
    without running anything in it, or safetensors. Raises InputError if there is no such file or if it holds no
    connector.
    """
    path = _file(source, revision)
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"--start-from {path}: not readable as plain tensors ({first_line(error)})") from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise InputError(f"--start-from {path}: expected tensors by name, found {type(tensors).__name__}")
    rows = tensors.get(NEW_EMBEDDING)
    for prefix in PREFIXES:
        found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if found:
            return PublishedConnector(found, tensors.get(PATCH_EMBEDDING) if rows is None else rows[PATCH_ROW])
    raise InputError(f"--start-from {path}: no tensor in it; expected {PREFIXES[0]}w1.weight and the like")


def connector_commit(source: str, revision: str | None = None) -> str | None:
    """The commit of a connector on the Hub, which is downloaded; None for a file or folder. Raises InputError."""
    path = _file(source, revision)
    return None if Path(source).exists() else path.parents[len(Path(_on_hub(source)[1]).parts) - 1].name


def start_from(model: Any, source: str, revision: str | None = None) -> None:
    """Load published weights into a model's connector. Raises InputError, naming the first tensor that does not fit."""
    published = read_connector(source, revision)
    found, expected = published.weights, dict(model.connector.named_parameters())
    for name in sorted(found.keys() | expected.keys()):
        shapes = [tuple(tensors[name].shape) if name in tensors else "none" for tensors in (found, expected)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"--start-from {source}: {name}: found {shapes[0]}, but this connector has {shapes[1]}; is it of this "
                "LLM and encoder, with the same --connector and --vit-layers?"
            )
    model.connector.load_state_dict(found)
    if published.patch_embedding is not None:
        model.config.patch_embedding = True
        model.model.multi_modal_projector.patch_embedding = nn.Parameter(published.patch_embedding.float())


def _on_hub(source: str) -> tuple[str, str]:
    """Repository and file of OWNER/REPOSITORY/FOLDER."""
    owner, _, rest = source.partition("/")
    repository, _, folder = rest.partition("/")
    return f"{owner}/{repository}", f"{folder}/{FILE}".lstrip("/")


def _file(source: str, revision: str | None) -> Path:
    path = Path(source)
    if path.exists() and revision:
        raise InputError(
            f"--start-from-revision {revision}: --start-from {source} is on this machine; only the Hub has revisions"
        )
    if path.is_dir():
        files = [path / FILE, *sorted(path.glob("*.safetensors"))]
        found = next((file for file in files if file.exists()), None)
        if found is None:
            raise InputError(f"--start-from {source}: no {FILE} or *.safetensors in this folder")
        return found
    if path.exists():
        return path
    offline_if_unreachable()
    try:
        return Path(hf_hub_download(*_on_hub(source), revision=revision or None))
    except (OSError, ValueError, HFValidationError, HfHubHTTPError) as error:
        raise InputError(
            f"--start-from {source}: no such file or folder, nor on the Hub ({first_line(error)})"
        ) from None
