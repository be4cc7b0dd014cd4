"""Scenes as PNG files that carry their own exact description."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from lenscore.shapes.chance import generator
from lenscore.shapes.grammar import caption
from lenscore.shapes.rendering import render
from lenscore.shapes.scenes import Scene, Split, sample_scene
from storage_layouts.files import make_folder

SCENE_KEY = "lenscore.shapes.scene"
"""Name of the PNG text chunk that holds the scene as JSON."""


def write_images(folder: str | Path, split: Split, count: int, seed: int = 0) -> list[Path]:
    """Write scenes 0 to ``count - 1`` of a split as ``<split>-00000.png`` ..., and ``captions.csv``.

    The folder is made if needed. The same arguments always give the same pictures; every file appears whole
    or not at all. ``captions.csv`` has the columns ``file`` and ``caption``. Returns the paths of the images in
    order. Raises ValueError for a split that does not exist or a negative count.
    """
    if count < 0:
        raise ValueError(f"count {count}: expected 0 or more")
    folder = Path(folder)
    make_folder(folder)
    paths, captions = [], []
    for index in range(count):
        scene = sample_scene(split, index, seed)
        path = folder / f"{split}-{index:05d}.png"
        _write_whole(path, _png_bytes(scene))
        paths.append(path)
        captions.append((path.name, caption(scene, generator("caption", split, seed, index))))
    _write_whole(folder / "captions.csv", _csv_bytes(captions))
    return paths


def read_scene(path: str | Path) -> Scene:
    """The scene that an image of ``write_images`` shows, checked against every pixel.

    Raises ValueError when the file is no image, carries no scene, or has other pixels than its scene; OSError
    when it cannot be opened.
    """
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(SCENE_KEY)
            # Photographs carry none, and decoding one takes long.
            pixels = np.asarray(image.convert("RGB")) if text is not None else None
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"{path}: not a readable image") from error
    if text is None:
        raise ValueError(f"{path}: no text chunk {SCENE_KEY!r}; only write_images puts one there")
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


def _csv_bytes(rows: list[tuple[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "caption"))
    writer.writerows(rows)
    return text.getvalue().encode()


def _write_whole(path: Path, content: bytes) -> None:
    """Write aside, then rename: a killed run leaves no half file under the final name."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    aside.write_bytes(content)
    aside.replace(path)
