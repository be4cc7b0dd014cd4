"""The pictures of the self-test: four coloured quadrants, one of them perhaps covered."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from lenscore.images.image_files import ImageFile

COLOURS = ((220, 40, 40), (40, 180, 60), (50, 80, 220), (240, 210, 60))
"""Top left, top right, bottom left, bottom right."""

COVERS = (1, 2)
"""Offsets of the quadrants whose colours cover a quadrant; two, because one colour may change little."""

SIZES = {"square": (448, 448), "wide": (672, 336), "tall": (336, 672)}
"""(width, height) of the pictures, which models with tiles cut differently."""

GRAIN, CONTRAST = 8, 50
"""Size in pixels and standard deviation of random squares, because flat colours lead to whole-image signals."""


def quadrant(left: float, top: float, right: float, bottom: float) -> int | None:
    """The quadrant that contains a box (shares of the image), numbered as `COLOURS`; None if there is none."""
    if right <= left or bottom <= top:
        return None
    column = 0 if right <= 0.5 + 1e-6 else 1 if left >= 0.5 - 1e-6 else None
    row = 0 if bottom <= 0.5 + 1e-6 else 1 if top >= 0.5 - 1e-6 else None
    return None if column is None or row is None else 2 * row + column


def save_picture(folder: Path, size: tuple[int, int], covered: int | None = None, cover: int = 1) -> ImageFile:
    """Write a picture of (width, height) as a file.

    The quadrant `covered` is blended half and half with the colour of the quadrant at offset `cover`.
    """
    width, height = size
    grains = np.random.default_rng(0).normal(scale=CONTRAST, size=(height // GRAIN, width // GRAIN, 3))
    picture = grains.astype(np.float32).repeat(GRAIN, axis=0).repeat(GRAIN, axis=1)
    for i, colour in enumerate(COLOURS):
        part = picture[i // 2 * height // 2 :, i % 2 * width // 2 :][: height // 2, : width // 2]
        part += colour
        if i == covered:
            part[:] = (part + COLOURS[(i + cover) % len(COLOURS)]) / 2
    path = folder / f"{width}x{height}-{covered}-{cover}.bmp"
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path)
    data = path.read_bytes()
    return ImageFile(path, hashlib.sha256(data).hexdigest(), len(data), None)
