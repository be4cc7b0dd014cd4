"""The analysed images in formats that every browser shows, and thumbnails."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import ExifTags, Image

from lenscore.images.image_files import ANY_SIZE, ImageFile, UnreadableImageError, open_image
from lenscore.images.table_cells import image_bytes
from lenscore.readings.image_reading import Picture
from storage_layouts.errors import InputError, MachineError
from storage_layouts.machine_errors import refuse_machine_error

LARGEST_SIDE = 1200
"""Pixels of a picture's longer side: more than a page shows."""
THUMBNAIL_SIDE = 192

_SHOWN_AS_IT_IS = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
_LARGEST_FILE = 500_000  # bytes; the picture is loaded with each image page


def shown_picture(source: Path, sha256: str) -> Picture | None:
    """Returns the picture as the model saw it; None if the file is missing or its bytes have changed.

    The bytes are those of the file if every browser shows them alike; otherwise (turned by EXIF, transparent, animated,
    large, another format) the picture is encoded as JPEG.
    """
    try:
        data = image_bytes(source)
        seen = open_image(ImageFile(source, sha256, len(data), None, ANY_SIZE))
    except MachineError:
        raise
    except (InputError, UnreadableImageError):
        return None
    except OSError as error:
        refuse_machine_error(source, error)
        return None
    media_type = _media_type(data)
    if media_type and max(seen.size) <= LARGEST_SIDE and len(data) <= _LARGEST_FILE:
        return Picture(data, media_type)
    return Picture(jpeg(seen), "image/jpeg")


def thumbnail(picture: Picture, side: int = THUMBNAIL_SIDE) -> bytes:
    """Returns the picture as a small JPEG, whose longer side has at most so many pixels."""
    with Image.open(io.BytesIO(picture.data)) as image:
        image.draft("RGB", (2 * side, 2 * side))
        return jpeg(image.convert("RGB"), side)


def picture_size(picture: Picture) -> tuple[int, int]:
    """Returns width and height in pixels."""
    with Image.open(io.BytesIO(picture.data)) as image:
        return image.size


def _media_type(data: bytes) -> str | None:
    """The media type of an image that browsers show as the model saw it; None for all others."""
    with Image.open(io.BytesIO(data)) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        animated = getattr(image, "n_frames", 1) > 1
        plain = image.mode in ("RGB", "L", "P", "1") and "transparency" not in image.info
        return _SHOWN_AS_IT_IS.get(image.format or "") if plain and not turned and not animated else None


def jpeg(image: Image.Image, largest_side: int = LARGEST_SIDE) -> bytes:
    """Returns the image as JPEG, shrunk until its longer side has at most so many pixels."""
    shown = image.copy()
    shown.thumbnail((largest_side, largest_side))
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
