"""Saved pages of the logit lens on visual tokens, in the layout of github.com/clemneo/llava-interp (arXiv 2410.07149).

    MODEL_IMAGE_logit_lens.html    one image, of which the page's script holds:
      const data = [[[["token", "0.1234"], ...], ...], ...];      [layers][tokens][k]: candidates and probabilities
      const tokenLabels = ["<s>", "<IMG001>", ..., " is", ...];   of the tokens; IMG and the number of a patch, from 1
      const imageSize = 336;  const patchSize = 14;               pixels; or imageWidth, imageHeight, gridH, gridW
    and the picture as data:image/png;base64 in its first <img>.

Adaptations for other models write the same names. The script is not run: JSON and numbers are read, nothing else.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from storage_layouts.errors import InputError, first_line
from storage_layouts.machine_errors import reading

PATTERN = "*_logit_lens.html"
_LABEL = re.compile(r"<IMG(\d{1,6})>")
_MOST = 2**15
"""Upper limit of layers, rows, columns and pixels; larger numbers are invalid."""


@dataclass(frozen=True)
class LogitLensPage:
    """What a page holds.

    Attributes:
        path: the file.
        labels: of all tokens of the model's input.
        patches: by place in `labels`, the patch from 0, row by row.
        candidates: [layers][tokens][k], tokens with their probabilities 0..1, best first.
        width, height: of the picture that the model saw, in pixels.
        patch_size: of its square patches, in pixels.
        rows, cols: of the patches.
        picture: bytes of the picture, in whatever format; None if there is none.

    """

    path: Path
    labels: tuple[str, ...]
    patches: dict[int, int]
    candidates: list[list[list[tuple[str, float]]]]
    width: int
    height: int
    patch_size: int
    rows: int
    cols: int
    picture: bytes | None


def page_files(path: Path) -> list[Path]:
    """The saved pages in a folder and its subfolders, sorted, or the one file; none if it is something else."""
    if path.is_file():
        return [path] if path.match(PATTERN) else []
    return sorted(path.rglob(PATTERN)) if not (path / "run.json").exists() else []


def read_page(path: Path) -> LogitLensPage:
    """Read a saved page. Raises InputError, naming what is missing or invalid."""
    with reading(path):
        text = path.read_bytes().decode("utf-8", "replace")
    labels = _constant(text, "tokenLabels", path)
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise InputError(f"{path}: tokenLabels: expected a list of texts")
    patch_size = _number(text, "patchSize", path)
    if _places(text, "gridW"):
        names = ("imageWidth", "imageHeight", "gridH", "gridW")
        width, height, rows, cols = (_number(text, name, path) for name in names)
    else:
        width = height = _number(text, "imageSize", path)
        rows = cols = width // patch_size
    if rows * patch_size > height or cols * patch_size > width:
        raise InputError(
            f"{path}: {rows} x {cols} patches of {patch_size} pixels do not fit into a picture of {width} x {height}"
        )
    patches = {place: int(found[1]) - 1 for place, label in enumerate(labels) if (found := _LABEL.fullmatch(label))}
    if not patches or sorted(patches.values()) != sorted(set(patches.values()) & set(range(rows * cols))):
        raise InputError(f"{path}: tokenLabels: expected <IMG001> to at most <IMG{rows * cols:03}>, each once")
    layers = _constant(text, "data", path)
    if not isinstance(layers, list) or not 0 < len(layers) <= _MOST:
        raise InputError(f"{path}: data: expected a list with the tokens of each layer")
    candidates = [_layer(layer, len(labels), f"{path}: data[{number}]") for number, layer in enumerate(layers)]
    found = re.search(r'<img\b[^>]*?\bsrc="data:image/[a-z]+;base64,([A-Za-z0-9+/=]+)"', text)
    size = width, height, patch_size, rows, cols
    return LogitLensPage(path, tuple(labels), patches, candidates, *size, _decoded(found[1]) if found else None)


def _places(text: str, name: str) -> list[int]:
    """Where values of a constant begin."""
    return [found.end() for found in re.finditer(rf"^\s*const {name} = ", text, re.MULTILINE)]


def _constant(text: str, name: str, path: Path) -> Any:
    """The JSON value of a constant of the script."""
    places = _places(text, name)
    if not places:
        raise InputError(f"{path}: no 'const {name} = ' in it; expected a page of the logit lens as llava-interp saves")
    try:
        return json.JSONDecoder().raw_decode(text, places[-1])[0]  # prompt and notes stand before the script
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {name}: no JSON ({first_line(error)})") from None


def _number(text: str, name: str, path: Path) -> int:
    value = _constant(text, name, path)
    if type(value) is not int or not 0 < value <= _MOST:
        raise InputError(f"{path}: {name}: found {value!r:.40}, expected a whole number above 0")
    return value


def _layer(layer: Any, tokens: int, where: str) -> list[list[tuple[str, float]]]:
    """The candidates of all tokens; a page shows those that have a label, and no others."""
    if not isinstance(layer, list) or len(layer) < tokens:
        found = f"{len(layer)} tokens" if isinstance(layer, list) else f"{layer!r:.40}"
        raise InputError(f"{where}: found {found}, expected the candidates of {tokens} tokens")
    return [_candidates(token, f"{where}[{number}]") for number, token in enumerate(layer[:tokens])]


def _candidates(found: Any, where: str) -> list[tuple[str, float]]:
    if not isinstance(found, list):
        raise InputError(f"{where}: found {found!r:.40}, expected a list of candidates")
    pairs = []
    for one in found:
        if not isinstance(one, list) or len(one) != 2 or not isinstance(one[0], str):
            raise InputError(f'{where}: found {one!r:.40}, expected ["token", "probability"]')
        try:
            share = float(one[1]) if isinstance(one[1], str | int | float) else float("nan")
        except ValueError:
            share = float("nan")
        if not isfinite(share) or not 0 <= share <= 1:
            raise InputError(f"{where}: found the probability {one[1]!r:.40}, expected 0 to 1")
        pairs.append((one[0], share))
    return pairs


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
