"""Scenes as PNG files that contain their exact description."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from lenscore.shapes.chance import generator
from lenscore.shapes.grammar import caption
from lenscore.shapes.rendering import render
from lenscore.shapes.scenes import Scene, Split, sample_scene
from storage_layouts.files import make_folder, write_atomic

SCENE_KEY = "lenscore.shapes.scene"
"""Name of the PNG text chunk with the scene as JSON."""


def write_images(folder: str | Path, split: Split, count: int, seed: int = 0) -> list[Path]:
    """Write scenes 0 to ``count - 1`` of a split as ``<split>-00000.png`` ..., and ``captions.csv``.

    The same arguments always give the same bytes; every file is written atomically.

    Args:
        folder: created if needed.
        split: one of the splits.
        count: number of scenes.
        seed: of the scenes.

    Returns:
        The paths of the images in order. ``captions.csv`` has the columns ``file`` and ``caption``.

    Raises:
        ValueError: a split that does not exist, or a negative count.

    """
    if count < 0:
        raise ValueError(f"count {count}: expected 0 or more")
    folder = Path(folder)
    make_folder(folder)
    paths, lines = [], [("file", "caption")]
    for index in range(count):
        scene = sample_scene(split, index, seed)
        path = folder / f"{split}-{index:05d}.png"
        write_atomic(path, _png_bytes(scene), flush=False)
        paths.append(path)
        lines.append((path.name, caption(scene, generator("caption", split, seed, index))))
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(lines)
    write_atomic(folder / "captions.csv", table.getvalue().encode(), flush=False)
    return paths


def read_scene(path: str | Path) -> Scene:
    """Returns the scene of an image of ``write_images``, checked against every pixel.

    Raises ValueError if the file is not an image, has no scene, or has other pixels than its scene; OSError if it
    cannot be opened.
    """
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(SCENE_KEY)
            # Photographs have none, and decoding them takes long.
            pixels = np.asarray(image.convert("RGB")) if text is not None else None
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"{path}: not a readable image") from error
    if text is None:
        raise ValueError(f"{path}: no text chunk {SCENE_KEY!r}; expected an image of write_images")
    try:
        scene = Scene.from_dict(json.loads(text))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if pixels is None or not np.array_equal(pixels, render(scene)):
        raise ValueError(f"{path}: the pixels differ from the scene that the file describes; write it again")
    return scene


def _png_bytes(scene: Scene) -> bytes:
    info = PngInfo()
    info.add_text(SCENE_KEY, json.dumps(scene.to_dict(), separators=(",", ":")))
    buffer = io.BytesIO()
    Image.fromarray(render(scene)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
