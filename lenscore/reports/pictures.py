"""Copies of the analysed images for the viewer, as files that every browser shows."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lenscore.images import ImageFile, UnreadableImageError, open_image
from storage_layouts.errors import InputError

_SHOWN_AS_IT_IS = {"PNG": "png", "JPEG": "jpg", "GIF": "gif", "WEBP": "webp"}
_LARGEST_SIDE = 2000
_THUMBNAIL_SIDE = 256
_ORIENTATION = 0x0112  # EXIF tag: pixels are stored turned


@dataclass(frozen=True)
class Picture:
    """Names of the files in the viewer's ``images`` folder."""

    image: str
    thumbnail: str


def copy_picture(source: Path, sha256: str, folder: Path) -> Picture | None:
    """Copy an image and make its thumbnail, named by content; None if the file is gone or has other bytes now.

    The bytes are copied as they are where every browser shows the same picture that the model saw; otherwise (turned by
    EXIF, transparent, animated, huge, another format) that picture is written as JPEG.
    """
    try:
        data = source.read_bytes()
        seen = open_image(ImageFile(source, sha256, len(data), None))
    except (OSError, InputError, UnreadableImageError):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    ending = _ending(data) if max(seen.size) <= _LARGEST_SIDE else None
    full = folder / f"{sha256[:16]}.{ending or 'jpg'}"
    full.write_bytes(data if ending else _jpeg(seen, _LARGEST_SIDE))
    if max(seen.size) <= _THUMBNAIL_SIDE:
        return Picture(full.name, full.name)
    small = folder / f"{sha256[:16]}-small.jpg"
    small.write_bytes(_jpeg(seen, _THUMBNAIL_SIDE))
    return Picture(full.name, small.name)


def _ending(data: bytes) -> str | None:
    """The file ending of an image that browsers show as the model saw it; None for all others."""
    with Image.open(io.BytesIO(data)) as image:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        animated = getattr(image, "n_frames", 1) > 1
        plain = image.mode in ("RGB", "L", "P", "1") and "transparency" not in image.info
        return _SHOWN_AS_IT_IS.get(image.format or "") if plain and not turned and not animated else None


def _jpeg(image: Image.Image, largest_side: int) -> bytes:
    shown = image.copy()
    shown.thumbnail((largest_side, largest_side))
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
