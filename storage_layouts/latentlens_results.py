"""Lens results as the JSON files of the latentlens paper's scripts: one file for each lens and visual layer.

    contextual_neighbors_visual8_allLayers.json          nearest_contextual_neighbors of each patch
    logit_lens_layer8_topk5_multi-gpu.json               top_predictions
    nearest_neighbors_analysis_lenscore_multi-gpu_layer8.json    nearest_neighbors, under splits.validation.images

lenscore reads and writes these; the files that it writes have two more fields: "row" (of the store) and, for the
embedding lens, "token_id". The same results give the same bytes. It also reads:

    contextual_neighbors_visual8_contextual16_multi-gpu.json     one contextual layer, in one field of the file
    logit_lens_layer8_topk5.json, nearest_neighbors_layer8_topk5.json    of off-the-shelf models: patches without chunks
    patchscopes_identity_layer8_topk5.json               as of the logit lens
    logit_lens_layer8_topk5.json in a folder tuned_lens  of a Tuned Lens, identified only by the folder
    latentlens_results.json                              one image, several models: see `single_image`
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage_layouts.errors import InputError, first_line

LATENT, LOGIT, EMBEDDING = "latent", "logit", "embedding"
TUNED, PATCHSCOPES = "tuned", "patchscopes"
"""Lenses whose published files have the layout of the logit lens; they are only read."""


@dataclass(frozen=True)
class LensFormat:
    """Names of the fields and files of one lens: candidates of a patch, score, visual layer; pattern of the file."""

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
LENSES = (*FORMATS, TUNED, PATCHSCOPES)
"""All lenses whose files can be read."""
SINGLE_IMAGE = "latentlens_results.json"
PATTERNS = (
    *("contextual_neighbors_visual*.json", "logit_lens_layer*.json", "nearest_neighbors_*.json"),
    *("patchscopes_identity_layer*.json", SINGLE_IMAGE),
)
_LAYER_NAMES = ("visual_layer", "layer_idx", "llm_layer", "layer")
_LARGEST = 3e38
"""About the largest float32."""
_MOST = 2**15
"""Upper limit of layers, rows, columns and chunks; larger numbers are invalid."""


@dataclass(frozen=True)
class Found:
    """The candidates of one patch in a file, with its image, chunk, number in the chunk, row and column."""

    image: int
    chunk: int
    patch: int
    row: int
    col: int
    candidates: list[dict[str, Any]]


@dataclass(frozen=True)
class ResultsFile:
    """Results of one lens at one visual layer in a file.

    Attributes:
        lens: one of `LENSES`.
        layer: the visual layer.
        checkpoint: name of the model.
        captions: by image.
        patches: in the order of the file.
        chunks: names by chunk number.
        contextual_layer: the searched layer, if it is in a field of the file; else it is in the candidates.
        image_path: path of the image, in a file of one image.

    """

    lens: str
    layer: int
    checkpoint: str
    captions: dict[int, str]
    patches: list[Found]
    chunks: dict[int, str]
    contextual_layer: int | None = None
    image_path: str = ""


def form_of(lens: str) -> LensFormat:
    """The format of the files of one of `LENSES`."""
    return FORMATS.get(lens, FORMATS[LOGIT])


def result_files(path: Path | str) -> list[Path]:
    """The files with names of latentlens results in a folder and its subfolders, sorted; or the one file."""
    path = Path(path)
    if path.is_file():
        return [path] if any(path.match(pattern) for pattern in PATTERNS) else []
    return sorted({file for pattern in PATTERNS for file in path.rglob(pattern)})


def image_json(
    lens: str, layer: int, image: int, caption: str, shape: list[int | None], chunks: list[dict[str, Any]]
) -> dict[str, Any]:
    """One entry of the results: an image with its chunks."""
    content = {"image_idx": image, "ground_truth_caption": caption, "feature_shape": shape}
    return content | ({"llm_layer_used": layer} if lens == LATENT else {}) | {"chunks": chunks}


def file_text(lens: str, layer: int, header: dict[str, Any], images: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The text of a file, in pieces: the fields of the header, then one line per image."""
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
    """Read a file of one lens and layer. InputError, naming the field, if one is missing or invalid."""
    content = read_object(file)
    where = str(file)
    images, place = _images_of(content, where)
    lens, key = _lens_of(content, images, file)
    layers = [name for name in _LAYER_NAMES if name in content]
    if not layers:
        raise InputError(f"{file}: not latentlens results (none of the fields {', '.join(_LAYER_NAMES)})")
    layer = whole_number(content, layers[0], where)
    only = whole_number(content, "contextual_layer", where) if "contextual_layer" in content else None
    captions: dict[int, str] = {}
    chunks: dict[int, str] = {}
    patches: list[Found] = []
    for number, image in enumerate(images):
        where = f"{file}: {place}[{number}]"
        index = whole_number(_object(image, where), "image_idx", where, 2**31)
        if index in captions:
            raise InputError(f"{where}: image_idx {index} occurs twice")
        captions[index] = text_of(image, "ground_truth_caption", where)
        where = f"{file}: image {index}"
        for chunk, (name, of_chunk) in enumerate(_chunks_of(image, where)):
            chunks.setdefault(chunk, name)
            patches += patches_of(of_chunk, key, index, chunk, where)
    checkpoint = text_of(content, "checkpoint", str(file)) or text_of(content, "model_name", str(file))
    return ResultsFile(lens, layer, checkpoint, captions, patches, chunks, only if lens == LATENT else None)


def patches_of(entries: Any, key: str, image: int, chunk: int, where: str) -> Iterator[Found]:
    """The patches of a chunk, with their candidates in the field ``key``. InputError for an invalid patch."""
    for number, entry in enumerate(_list(entries, "patches", where)):
        patch = whole_number(_object(entry, f"{where}, patches[{number}]"), "patch_idx", where, 2**31)
        at = f"{where}, patch {patch}"
        candidates = _list(entry.get(key), key, at)
        if not all(isinstance(candidate, dict) for candidate in candidates):
            raise InputError(f"{at}: {key}: expected objects, one for each candidate")
        yield Found(
            image, chunk, patch, whole_number(entry, "patch_row", at), whole_number(entry, "patch_col", at), candidates
        )


def numbers_of(found: Found, name: str, file: Path) -> list[float]:
    """A number of each candidate of a patch. InputError, naming the patch, if a candidate lacks it or it is NaN."""
    numbers: list[Any] = [candidate.get(name) for candidate in found.candidates]
    for number in numbers:
        if type(number) not in (int, float):
            what = f"a candidate has no number {name!r}"
        elif not abs(number) <= _LARGEST:
            what = f"a candidate's {name} is {number:.20}, no number (half precision may have overflowed)"
        else:
            continue
        raise InputError(f"{file}: image {found.image}, patch {found.patch}: {what}")
    return numbers


def whole_numbers_of(found: Found, name: str, file: Path, default: int | None = None, below: int = 2**31) -> list[int]:
    """Like `numbers_of` for ids and layers: whole numbers of 0 or more, or the default."""
    numbers: list[Any] = [candidate.get(name, default) for candidate in found.candidates]
    for number in numbers:
        if number != default and (type(number) is not int or not 0 <= number < below):
            where = f"{file}: image {found.image}, patch {found.patch}: {name}"
            raise InputError(f"{where}: found {number!r:.40}, expected a whole number of 0 or more")
    if None in numbers:
        raise InputError(f"{file}: image {found.image}, patch {found.patch}: a candidate has no number {name!r}")
    return numbers


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object of a file. InputError if it cannot be read, or holds something else."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not a readable JSON file ({first_line(error)})") from None
    return _object(content, str(file))


def whole_number(entry: dict[str, Any], name: str, where: str, below: int = _MOST) -> int:
    """A whole number of 0 or more in a field. InputError if it is missing or another value."""
    value = entry.get(name)
    if type(value) is not int or not 0 <= value < below:
        found = "nothing" if value is None else f"{value!r:.40}"
        raise InputError(f"{where}: {name}: found {found}, expected a whole number of 0 or more")
    return value


def text_of(entry: dict[str, Any], name: str, where: str) -> str:
    """Text in a field, "" if it is missing or null. InputError if it holds another value."""
    value = entry.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: {name}: found {value!r:.40}, expected text")
    return value or ""


def _images_of(content: dict[str, Any], where: str) -> tuple[list[Any], str]:
    """The entries of the images, and the name of their field."""
    if "splits" not in content:
        return _list(content.get("results"), "results", where), "results"
    splits = _object(content["splits"], f"{where}: splits")
    name = "validation" if "validation" in splits or not splits else next(iter(splits))
    split = _object(splits.get(name), f"{where}: splits.{name}")
    return _list(split.get("images"), f"splits.{name}.images", where), f"splits.{name}.images"


def _lens_of(content: dict[str, Any], images: list[Any], file: Path) -> tuple[str, str]:
    """The lens and the field of its candidates, from the first patch, or without patches from the other fields."""
    known = {form.key: lens for lens, form in FORMATS.items()}
    keys = {key for key in _first_patch(images, str(file)) if key in known}
    if not keys:
        keys = {form.key for form in FORMATS.values() if form.layer in content and not _first_patch(images, str(file))}
    if len(keys) != 1:
        raise InputError(f"{file}: not latentlens results (its patches hold none of {', '.join(known)})")
    (key,) = keys
    if key != FORMATS[LOGIT].key:
        return known[key], key
    if str(content.get("method", "")).startswith(PATCHSCOPES):
        return PATCHSCOPES, key
    return _by_folder(file), key


def _first_patch(images: list[Any], where: str) -> dict[str, Any]:
    for image in images:
        if isinstance(image, dict):
            for _, patches in _chunks_of(image, where):
                if isinstance(patches, list) and patches and isinstance(patches[0], dict):
                    return patches[0]
    return {}


def _by_folder(file: Path) -> str:
    """Tuned Lens or logit lens, from the innermost folder with the name of one of them."""
    for folder in reversed(file.resolve().parts[:-1]):
        if re.search(r"tuned[-_ ]?lens", folder, re.IGNORECASE):
            return TUNED
        if re.search(r"logit[-_ ]?lens", folder, re.IGNORECASE):
            return LOGIT
    return LOGIT


def _chunks_of(image: dict[str, Any], where: str) -> list[tuple[str, Any]]:
    """Names and patches of the chunks of an image; the files of off-the-shelf models have patches without chunks."""
    if "chunks" not in image:
        return [("Full Image", image.get("patches"))]
    chunks = [_object(chunk, f"{where}, chunks") for chunk in _list(image["chunks"], "chunks", where)]
    names = (text_of(chunk, "chunk_name", where) or f"Chunk {number}" for number, chunk in enumerate(chunks))
    return list(zip(names, (chunk.get("patches") for chunk in chunks), strict=True))


def _list(value: Any, name: str, where: str) -> list[Any]:
    if isinstance(value, list):
        return value
    found = "nothing" if value is None else f"{value!r:.40}"
    raise InputError(f"{where}: not latentlens results ({name}: found {found}, expected a list)")


def _object(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise InputError(f"{where}: not latentlens results (found {value!r:.40}, expected an object)")
