"""Pictures as the user has them: found, fingerprinted, opened. What cannot be read is told, never hidden."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lenscore.table_files import read_table_file
from storage_layouts.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""What counts as an image in a folder (a list or a table may name any file)."""

PATH_COLUMNS = ("path", "file", "file_name", "image")
"""Columns of a table that are taken for the paths, the first that is there."""

LONGEST_STRIP = 200
"""An image with a side more than this many times the other is refused: resizing it would fill the memory."""


@dataclass(frozen=True)
class ImageFile:
    """One image of the user's: its absolute path, its content and perhaps what somebody said about it.

    `sha256` is "" and `bytes` is 0 where the file cannot be read.
    """

    path: Path
    sha256: str
    bytes: int
    caption: str | None


class UnreadableImageError(Exception):
    """An image that cannot be used; the message is the reason, and the same for the same bytes."""


def find_images(
    source: Path, caption_column: str = "", path_column: str = "", flag: str = "--images"
) -> list[ImageFile]:
    """Every image of a folder, a list or a table, with the hash of its content.

    A folder is searched with its subfolders, in the order of the relative paths. A list (.txt) holds one path a
    line, a table (.csv, .tsv, .parquet) a column of paths (one of `PATH_COLUMNS`, if `path_column` names no other)
    and perhaps one of captions ("caption", if `caption_column` names no other). Relative paths start at the folder
    of the list or table. Raises InputError, naming ``flag``, if there is no such source or column, or if not one image
    file is there.
    """
    if source.is_dir():
        paths = sorted((p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES), key=lambda p: p.parts)
        if not paths:
            raise InputError(f"{flag} {source}: no image in this folder; expected files in {' '.join(SUFFIXES)}")
        found: list[tuple[Path, str | None]] = [(path, None) for path in paths]
    elif source.suffix.lower() in (".txt", ".csv", ".tsv", ".parquet") and source.is_file():
        found = (
            _listed(source, flag)
            if source.suffix.lower() == ".txt"
            else _in_table(source, path_column, caption_column, flag)
        )
        if not found:
            raise InputError(f"{flag} {source}: names no image; expected one path a line, or a table with rows")
    else:
        raise InputError(
            f"{flag} {source}: {'not a list of images' if source.exists() else 'no such file or folder'}; "
            "expected a folder, a list (.txt), or a table (.csv, .tsv, .parquet)"
        )
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda item: _fingerprint(*item), found))
    if not any(image.sha256 for image in images):
        raise InputError(f"{flag} {source}: none of its {len(images)} files can be read, e.g. {images[0].path}")
    return images


def open_image(image: ImageFile) -> Image.Image:
    """The image as RGB, turned as its EXIF says, transparency over white, the first frame of an animation.

    Raises UnreadableImageError if it is none, InputError if its content is not the one of the plan.
    """
    try:
        data = image.path.read_bytes()
    except OSError as error:
        data = None
        reason = error.strerror or type(error).__name__
    digest = "" if data is None else hashlib.sha256(data).hexdigest()
    if digest != image.sha256:
        raise InputError(
            f"{image.path}: changed since the run was planned (SHA-256 was {image.sha256[:12] or 'unreadable'}, "
            f"is {digest[:12] or 'unreadable'}); put the old file back, or analyse into a new folder"
        )
    if data is None:
        raise UnreadableImageError(reason)
    return decode_image(data)


def decode_image(data: bytes) -> Image.Image:
    """The bytes of an image file as `open_image` gives them. Raises UnreadableImageError if they are none."""
    return _as_seen(lambda: Image.open(io.BytesIO(data)))


def picture_as_seen(picture: Image.Image) -> Image.Image:
    """A picture in memory as `open_image` would give it from a file. Raises UnreadableImageError if it cannot."""
    return _as_seen(lambda: picture)


def _as_seen(open_it: Callable[[], Image.Image]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; what matters is raised
            picture = open_it()
            _refuse_strips(*picture.size)
            return _rgb(ImageOps.exif_transpose(picture))
    except UnreadableImageError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        reason = re.sub(r"\s*<[^>]*>", "", str(error)).strip()  # no memory addresses: the same bytes, the same reason
        raise UnreadableImageError(reason or type(error).__name__) from None


def _refuse_strips(width: int, height: int) -> None:
    if max(width, height) > LONGEST_STRIP * min(width, height):
        raise UnreadableImageError(f"{width} x {height} pixels: one side is over {LONGEST_STRIP} times the other")


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise UnreadableImageError("floating-point pixels, whose black and white are not known")
    if picture.mode == "LAB":
        raise UnreadableImageError("LAB colours, which are not understood; save it as RGB")
    if picture.mode.startswith("I"):  # 16 bits: Pillow would cut everything above 255 to white
        levels = np.clip(np.asarray(picture), 0, 65535) / 257.0
        picture = Image.fromarray(levels.round().astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _fingerprint(path: Path, caption: str | None) -> ImageFile:
    path = path.absolute()
    try:
        data = path.read_bytes()
    except OSError:
        return ImageFile(path, "", 0, caption)
    return ImageFile(path, hashlib.sha256(data).hexdigest(), len(data), caption)


def _listed(source: Path, flag: str) -> list[tuple[Path, str | None]]:
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{flag} {source}: not UTF-8 at byte {error.start}; save the list as UTF-8") from None
    return [(source.parent / line.strip(), None) for line in lines if line.strip()]


def _in_table(source: Path, path_column: str, caption_column: str, flag: str) -> list[tuple[Path, str | None]]:
    table = read_table_file(source, f"{flag} {source}")
    path_column = path_column or next((name for name in PATH_COLUMNS if name in table.columns), PATH_COLUMNS[0])
    for column in (path_column, caption_column):
        if column and column not in table.columns:
            raise InputError(f"{flag} {source}: no column {column!r}; it has {', '.join(map(repr, table.columns))}")
    caption_column = caption_column or "caption"
    captions = list(table[caption_column]) if caption_column in table.columns else [None] * len(table)
    return [
        (source.parent / str(path), str(caption) if isinstance(caption, str) and caption else None)
        for path, caption in zip(table[path_column], captions, strict=True)
    ]
