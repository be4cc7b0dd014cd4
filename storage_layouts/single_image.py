"""The file of one image and several models that the latentlens authors' script for single images writes.

latentlens_results.json   {image_path, models: {NAME: {model_spec: {llm, vision_encoder, display_name},
visual_layers, patches_per_chunk, num_chunks,
results_by_layer: {L: {llm_layer_used, chunks}},
logitlens_by_layer: {L: null, or the top predictions of each patch, chunk after chunk}}}}
image.jpg                 a copy of the image
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storage_layouts.errors import InputError
from storage_layouts.latentlens_results import (
    FORMATS,
    LATENT,
    LOGIT,
    SINGLE_IMAGE,
    Found,
    ResultsFile,
    parse_file,
    patches_of,
    read_object,
    text_of,
)

IMAGE_COPY = "image.jpg"


def parse_files(file: Path) -> list[ResultsFile]:
    """The results in a file: each lens and layer of each model. Errors as `parse_file`."""
    if file.name != SINGLE_IMAGE:
        return [parse_file(file)]
    content = read_object(file)
    path, models = text_of(content, "image_path", str(file)), content.get("models")
    if not isinstance(models, dict) or not models:
        raise InputError(f"{file}: models: expected an object with a model for each name")
    return [part for name, model in models.items() for part in _model(name, model, path, f"{file}: models.{name}")]


def _model(name: str, model: Any, path: str, where: str) -> Iterator[ResultsFile]:
    chunks: dict[int, str] = {}
    places: list[Found] = []
    for layer, entry in _layers(model, "results_by_layer", where):
        at = f"{where}, layer {layer}"
        patches: list[Found] = []
        if not isinstance(entry, dict) or not isinstance(entry.get("chunks"), list):
            raise InputError(f"{at}: expected {{llm_layer_used, chunks: [...]}}")
        for number, chunk in enumerate(entry["chunks"]):
            if not isinstance(chunk, dict):
                raise InputError(f"{at}: chunks[{number}]: expected {{chunk_name, patches: [...]}}")
            chunks[number] = text_of(chunk, "chunk_name", at) or f"Chunk {number}"
            patches += patches_of(chunk.get("patches"), FORMATS[LATENT].key, 0, number, at)
        places = places or patches
        yield ResultsFile(LATENT, layer, name, {0: ""}, patches, chunks, image_path=path)
    for layer, entry in _layers(model, "logitlens_by_layer", where):
        if entry is None:  # the logit lens was left out at this layer
            continue
        at = f"{where}, logitlens_by_layer, layer {layer}"
        if not isinstance(entry, list) or len(entry) != len(places):
            found = f"{len(entry)} patches" if isinstance(entry, list) else "no list"
            raise InputError(f"{at}: found {found}, expected the predictions of {len(places)} patches")
        if not all(isinstance(one, list) and all(isinstance(word, dict) for word in one) for one in entry):
            raise InputError(f"{at}: expected a list of predictions for each patch")
        patches = [
            Found(0, place.chunk, place.patch, place.row, place.col, predictions)
            for place, predictions in zip(places, entry, strict=True)
        ]
        yield ResultsFile(LOGIT, layer, name, {0: ""}, patches, chunks, image_path=path)


def _layers(model: Any, name: str, where: str) -> list[tuple[int, Any]]:
    """The field ``name`` of a model by layer, ascending."""
    by_layer = (model.get(name) or {}) if isinstance(model, dict) else None
    if not isinstance(by_layer, dict) or not all(layer.isdecimal() and len(layer) < 5 for layer in by_layer):
        raise InputError(f"{where}: {name}: expected an object with layer numbers as names")
    return [(int(layer), by_layer[layer]) for layer in sorted(by_layer, key=int)]
