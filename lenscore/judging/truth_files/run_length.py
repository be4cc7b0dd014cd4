"""Masks as COCO keeps them: run lengths, or polygons."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from lenscore.images.image_files import MAX_PIXELS
from storage_layouts.errors import InputError

Mask = npt.NDArray[np.bool_]

_FINER = 4
"""Polygons of all but large images are drawn so many times larger: Pillow also fills what their outline touches."""
_LARGE = 1 << 24


def mask_of_rle(value: Any, where: str) -> Mask:
    """The mask ``[height, width]`` of ``{"size": [height, width], "counts": ...}``, as COCO's tools write it.

    The counts are lengths of runs of 0 and 1 in turn, down the columns, the first of 0: a list of numbers, or a text
    with five bits a character in which each length from the fourth on is a difference to the last but one (the
    functions rleToString and rleFrString of cocoapi/common/maskApi.c). InputError, naming ``where``, for anything else.
    """
    size, counts = (value.get(name) for name in ("size", "counts")) if isinstance(value, dict) else (None, None)
    size, counts = _plain(size), _plain(counts)
    if not (_whole(size) and len(size) == 2 and min(size) > 0):
        raise InputError(f"{where}: a mask whose size is {_shown(size)}, expected [height, width]")
    if isinstance(counts, (str, bytes)):
        counts = _unpacked(counts if isinstance(counts, bytes) else counts.encode(), where)
    if not (_whole(counts) and min(counts, default=0) >= 0):
        raise InputError(f"{where}: a mask whose counts are {_shown(counts)}, expected lengths or a text of COCO's")
    height, width = size
    require_pixels(width, height, where)
    if sum(counts) != height * width:
        raise InputError(f"{where}: run lengths of {sum(counts)} pixels, expected {height} x {width}")
    runs = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.ascontiguousarray(runs.reshape(width, height).T)


def run_lengths_of(mask: Mask) -> list[int]:
    """The counts of a mask ``[height, width]`` as `mask_of_rle` reads them: pixels out, in, out down the columns."""
    pixels = mask.T.ravel()
    ends = np.flatnonzero(np.diff(pixels)) + 1
    bounds = [0, *([0] if pixels[0] else []), *ends.tolist(), len(pixels)]
    return np.diff(bounds).tolist()


def mask_of_polygons(polygons: Any, width: int, height: int, where: str) -> Mask:
    """The mask of all pixels that lie by half or more in one of the polygons ``[x0, y0, x1, y1, x2, y2, ...]``."""
    finer = _FINER if width * height <= _LARGE else 1
    mask = np.zeros((height, width), bool)
    for polygon in polygons:
        numbers = isinstance(polygon, list) and all(map(_is_number, polygon))
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise InputError(f"{where}: a polygon of {_shown(polygon)}, expected x and y of three or more corners")
        corners = np.array(polygon, np.float64).reshape(-1, 2)
        left, top = np.clip(np.floor(corners.min(axis=0)), 0, (width, height)).astype(int).tolist()
        right, bottom = np.clip(np.ceil(corners.max(axis=0)), 0, (width, height)).astype(int).tolist()
        if left < right and top < bottom:  # no more of the image is drawn than it may cover
            drawn = Image.new("L", ((right - left) * finer, (bottom - top) * finer))
            # Pillow's corners are middles of pixels.
            ImageDraw.Draw(drawn).polygon(((corners - (left, top)) * finer - 0.5).ravel().tolist(), fill=255)
            mask[top:bottom, left:right] |= np.asarray(drawn.reduce(finer)) >= 128
    return mask


def require_pixels(width: int, height: int, where: str) -> None:
    """InputError for an image that would fill the memory."""
    if width * height > MAX_PIXELS:
        raise InputError(f"{where}: {width} x {height} pixels, expected at most {MAX_PIXELS:,}")


def _unpacked(text: bytes, where: str) -> list[int]:
    counts: list[int] = []
    number = shift = 0
    for sign in text:
        bits = sign - 48
        if not 0 <= bits < 64 or shift > 60:
            raise InputError(f"{where}: run lengths with the sign {chr(sign)!r}, which COCO's have not")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    if shift:
        raise InputError(f"{where}: run lengths that end within a number")
    return counts


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _whole(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in value)


def _is_number(value: Any) -> bool:
    """Whether a value is a coordinate that Pillow can draw, which computes with int32. NaN is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e8


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
