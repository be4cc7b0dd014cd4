"""Lens results as the JSON files of the latentlens paper's scripts: one file for each lens and visual layer.

    contextual_neighbors_visual8_allLayers.json          nearest_contextual_neighbors of each patch
    logit_lens_layer8_topk5_multi-gpu.json               top_predictions
    nearest_neighbors_analysis_lenscore_multi-gpu_layer8.json    nearest_neighbors, under splits.validation.images

Our files hold two names more: "row" (of the store) and, for the embedding lens, "token_id". The same results give
the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage_layouts.errors import InputError

LATENT, LOGIT, EMBEDDING = "latent", "logit", "embedding"


@dataclass(frozen=True)
class LensFormat:
    """How the files of one lens are made.

    Attributes:
        key: name of the candidates of a patch.
        score: name of a candidate's score.
        layer: name of the visual layer.
        file: pattern of the file name, of layer and k.

    """

    key: str
    score: str
    layer: str
    file: str


FORMATS = {
    LATENT: LensFormat(
        "nearest_contextual_neighbors",
        "similarity",
        "visual_layer",
        "contextual_neighbors_visual{layer}_allLayers.json",
    ),
    LOGIT: LensFormat("top_predictions", "logit", "layer_idx", "logit_lens_layer{layer}_topk{k}_multi-gpu.json"),
    EMBEDDING: LensFormat(
        "nearest_neighbors",
        "similarity",
        "llm_layer",
        "nearest_neighbors_analysis_lenscore_multi-gpu_layer{layer}.json",
    ),
}
PATTERNS = ("contextual_neighbors_visual*.json", "logit_lens_layer*.json", "nearest_neighbors_*.json")


@dataclass(frozen=True)
class Found:
    """The candidates of one patch in a file: image, number of its chunk and of the patch in it, row, column."""

    image: int
    chunk: int
    patch: int
    row: int
    col: int
    candidates: list[dict[str, Any]]


@dataclass(frozen=True)
class ResultsFile:
    """One parsed file: lens and visual layer, what it says of the model, captions by image, patches, chunks' names."""

    lens: str
    layer: int
    checkpoint: str
    captions: dict[int, str]
    patches: list[Found]
    chunks: dict[int, str]


def result_files(folder: Path | str) -> list[Path]:
    """The files of a folder and its subfolders whose names are those of latentlens results, sorted."""
    return sorted({file for pattern in PATTERNS for file in Path(folder).rglob(pattern)})


def image_json(
    lens: str, layer: int, image: int, caption: str, shape: list[int | None], chunks: list[dict[str, Any]]
) -> dict[str, Any]:
    """One entry of the results: an image with its chunks."""
    content = {"image_idx": image, "ground_truth_caption": caption, "feature_shape": shape}
    return content | ({"llm_layer_used": layer} if lens == LATENT else {}) | {"chunks": chunks}


def file_text(lens: str, layer: int, header: dict[str, Any], images: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The text of a file, in pieces: the header's fields, then an image a line."""
    named = {**header, FORMATS[lens].layer: layer}
    before, after = '"results": [', "\n]}\n"
    if lens == EMBEDDING:
        count = json.dumps(header["num_images"])
        before, after = f'"splits": {{"validation": {{"num_images": {count}, "images": [', "\n]}}}\n"
    yield json.dumps(named, ensure_ascii=False)[:-1] + ", " + before
    for number, image in enumerate(images):
        yield (",\n" if number else "\n") + json.dumps(image, ensure_ascii=False, allow_nan=False)
    yield after


def parse_file(file: Path) -> ResultsFile:
    """Read a file. InputError, naming the place, if it is none or lacks what it must have."""
    try:
        content = json.loads(file.read_bytes())
        lens = _lens_of(content)
        images = content["splits"]["validation"]["images"] if lens == EMBEDDING else content["results"]
        layer = int(content[FORMATS[lens].layer])
        captions = {int(image["image_idx"]): str(image.get("ground_truth_caption") or "") for image in images}
        chunks = {
            number: str(chunk.get("chunk_name") or f"Chunk {number}")
            for image in images
            for number, chunk in enumerate(image["chunks"])
        }
        patches = [
            Found(
                int(image["image_idx"]),
                chunk,
                int(patch["patch_idx"]),
                int(patch["patch_row"]),
                int(patch["patch_col"]),
                patch[FORMATS[lens].key],
            )
            for image in images
            for chunk, of_chunk in enumerate(image["chunks"])
            for patch in of_chunk["patches"]
        ]
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: no JSON file that can be read ({error})") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: not latentlens results ({type(error).__name__}: {error})") from None
    return ResultsFile(lens, layer, str(content.get("checkpoint", "")), captions, patches, chunks)


def _lens_of(content: dict[str, Any]) -> str:
    for lens, its in FORMATS.items():
        if its.layer in content:
            return lens
    raise KeyError(" or ".join(its.layer for its in FORMATS.values()))


def numbers_of(found: Found, name: str, file: Path, default: int | None = None) -> list[float]:
    """A number of each candidate of a patch. InputError, naming the patch, if a candidate lacks it."""
    try:
        numbers = [candidate.get(name, default) for candidate in found.candidates]
    except AttributeError:  # a candidate that is no dict
        numbers = [None]
    known = [number for number in numbers if isinstance(number, (int, float))]
    if len(known) == len(numbers):
        return known
    raise InputError(f"{file}: image {found.image}, patch {found.patch}: a candidate has no number {name!r}")
