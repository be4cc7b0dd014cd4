"""Tables of objects: a path, a box or a mask, and words.

Columns (the first name that is there, in any case): ``path``, ``file``, ``file_name`` or ``image``; ``x0 y0 x1 y1``,
``left top right bottom`` or ``xmin ymin xmax ymax``; or ``mask``, a PNG beside the table (pixels above 0) or run
lengths of COCO's; ``word``, ``words``, ``label`` or ``name``; and perhaps ``synonyms``. A cell may hold several words,
with ";" between them or as a list.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lenscore.images.table_cells import PATH_COLUMNS
from lenscore.judging.patches import Box, ImagePatches
from lenscore.judging.truth_files.known_objects import AnalysedImages, KnownObjects, boxed, masked
from lenscore.judging.truth_files.run_length import Mask, mask_of_rle
from lenscore.user_files.finding import require_regular
from lenscore.user_files.rows import Column, place, read_rows, texts_of
from storage_layouts.errors import InputError, first_line
from storage_layouts.machine_errors import refuse_machine_error

_FLAG = "a truth file"
_CORNERS = (("x0", "left", "xmin"), ("y0", "top", "ymin"), ("x1", "right", "xmax"), ("y1", "bottom", "ymax"))
_COLUMNS = (
    Column(_FLAG, usual=PATH_COLUMNS),
    Column(_FLAG, usual=("word", "words", "label", "name")),
    Column(_FLAG, usual=("synonyms", "synonym"), needed=False),
    Column(_FLAG, usual=("mask",), needed=False),
    *(Column(_FLAG, usual=names, needed=False) for names in _CORNERS),
)
_ROUNDING = 1e-4
"""Shares may leave 0..1 by so much."""


@dataclass(frozen=True)
class _Row:
    where: str
    images: list[ImagePatches]
    words: tuple[str, ...]
    box: Box | None
    mask: Any


def table_objects(path: Path, analysed: AnalysedImages) -> KnownObjects:
    """The objects of a table. Boxes are shares if no number of the table is above 1, else pixels of the analysed image.

    Raises InputError, naming file and line, for whatever cannot be read or cannot be so.
    """
    found = KnownObjects()
    names: dict[str, list[ImagePatches]] = {}
    rows: list[_Row] = []
    largest = 0.0
    for number, (name, word, synonyms, mask, *corners) in read_rows(path, _COLUMNS):
        where = place(path, number)
        listed = texts_of(name, where)
        if len(listed) != 1:
            raise InputError(f"{where}: found {name!r:.60}, expected the path of an image")
        if listed[0] not in names:
            names[listed[0]] = analysed.named(listed[0], where)
        words = [part.strip() for text in (word, synonyms) for one in texts_of(text, where) for part in one.split(";")]
        words = list(dict.fromkeys(part for part in words if part))
        if not words:
            raise InputError(f"{where}: found no word, expected what the object is called")
        box = None if mask not in (None, "") else _corners(corners, where)
        if box is not None:
            largest = max(largest, *box)
        if names[listed[0]]:
            rows.append(_Row(where, names[listed[0]], tuple(words), box, mask))
    found.images = len(names)
    for image in (image for images in names.values() for image in images):
        found.of_image.setdefault(image.image_id, [])
    for row in rows:
        for image in row.images:
            if row.box is None:
                known = masked(row.words, partial(_mask, row.mask, path, row.where), image, row.where)
            else:
                in_pixels = largest > 1 + _ROUNDING
                if not in_pixels and min(row.box) < -_ROUNDING:
                    raise InputError(f"{row.where}: a box with {min(row.box):g}, expected shares of the image (0 to 1)")
                known = boxed(row.words, _shares(row.box, image, row.where) if in_pixels else row.box, image)
            found.of_image[image.image_id].append(known)
    return found


def mask_pictures(path: Path) -> list[Path]:
    """The pictures of masks that a table names, sorted; they may be missing. InputError if it cannot be read."""
    column = Column(_FLAG, usual=("mask",), needed=False)
    values = {mask for _, (mask,) in read_rows(path, [column]) if isinstance(mask, str) and mask.strip()}
    return sorted(_picture(value, path) for value in values if not _is_run_lengths(value))


def _is_run_lengths(value: str) -> bool:
    return value.lstrip().startswith("{")


def _picture(value: str, table: Path) -> Path:
    return table.absolute().parent / value.strip()


def _corners(values: list[Any], where: str) -> Box:
    if all(value is None for value in values):
        raise InputError(f"{where}: found neither a box nor a mask, expected columns x0, y0, x1, y1, or mask")
    numbers = []
    for value, names in zip(values, _CORNERS, strict=True):
        try:
            if value is None or isinstance(value, bool):
                raise ValueError
            number = float(value)
        except (TypeError, ValueError):
            raise InputError(f"{where}: {names[0]} is {value!r:.40}, expected a number") from None
        if not isfinite(number):
            raise InputError(f"{where}: {names[0]} is {number}, expected a number")
        numbers.append(number)
    left, top, right, bottom = numbers
    if not (left < right and top < bottom):
        raise InputError(
            f"{where}: a box from {left:g}, {top:g} to {right:g}, {bottom:g}; expected two corners with x0 < x1 and "
            "y0 < y1, not a width and a height"
        )
    return left, top, right, bottom


def _shares(box: Box, image: ImagePatches, where: str) -> Box:
    """A box in pixels as shares."""
    left, top, right, bottom = box
    if max(right, bottom) <= 1:
        raise InputError(
            f"{where}: a box within the first pixel, but other boxes of the table have numbers above 1; "
            "expected all in pixels, or all as shares (0 to 1)"
        )
    if right > image.width + 1 or bottom > image.height + 1 or min(left, top) < -1:
        raise InputError(
            f"{where}: a box from {left:g}, {top:g} to {right:g}, {bottom:g}, but {image.path} has {image.width} x "
            f"{image.height} pixels; expected pixels of this image, or shares (0 to 1)"
        )
    return left / image.width, top / image.height, right / image.width, bottom / image.height


def _mask(value: Any, table: Path, where: str) -> Mask:
    """The mask of a cell: run lengths, or a picture whose path begins at the table."""
    if isinstance(value, str) and _is_run_lengths(value):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise InputError(f"{where}: a mask that is not JSON, expected run lengths as COCO writes them") from None
    if isinstance(value, dict):
        return mask_of_rle(value, where)
    if not isinstance(value, str):
        raise InputError(f"{where}: a mask of {type(value).__name__}, expected a path, or run lengths of COCO's")
    path = _picture(value, table)
    require_regular(path, f"{where}: the mask {path}")
    try:
        with Image.open(path) as picture:
            if len(picture.getbands()) > 1:
                found = f"{len(picture.getbands())} channels ({picture.mode})"
                raise InputError(f"{where}: the mask {path} has {found}, expected one, above 0 on the object")
            return np.asarray(picture) > 0
    except FileNotFoundError:
        raise InputError(f"{where}: the mask {path} is not there") from None
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        if isinstance(error, OSError):
            refuse_machine_error(path, error)
        raise InputError(f"{where}: the mask {path} cannot be read ({first_line(error)})") from None
