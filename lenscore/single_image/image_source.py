"""Reading an image from a file, a PIL image or an array of pixels."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from lenscore.images.image_files import MAX_PIXELS, UnreadableImageError, decode_image, picture_as_seen
from lenscore.images.table_cells import image_bytes
from lenscore.readings.image_reading import Picture
from lenscore.viewer.browser_pictures import LARGEST_SIDE, jpeg, shown_picture
from storage_layouts.errors import InputError

ImageSource = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]
"""A file, a PIL image, or its pixels: uint8 [height, width], [height, width, 3] or [height, width, 4]."""

_LARGEST_PNG = 500_000  # bytes


@dataclass(frozen=True)
class OpenedImage:
    """An image that can be read.

    Attributes:
        name: the file's name, or "image".
        pixels: RGB, as the model's processor receives it.
        sha256: of the file's bytes, as in an analyze run; without a file, of size and pixels.
        path: the file, if there is one.

    """

    name: str
    pixels: Image.Image
    sha256: str
    path: Path | None = None

    def picture(self) -> Picture | None:
        """Returns the picture for pages and figures; None if the file is missing by now."""
        if self.path is not None:
            return shown_picture(self.path, self.sha256)
        buffer = io.BytesIO()
        shown = self.pixels.copy()
        shown.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        shown.save(buffer, "PNG")
        if buffer.tell() <= _LARGEST_PNG:
            return Picture(buffer.getvalue(), "image/png")
        return Picture(jpeg(shown), "image/jpeg")


def open_image_source(image: ImageSource, max_pixels: int = MAX_PIXELS) -> OpenedImage:
    """Read an image from a file, a PIL image or an array. Raises InputError if it is missing or unreadable."""
    if isinstance(image, (str, os.PathLike)):
        return _opened_file(Path(image).absolute(), max_pixels)
    picture = image if isinstance(image, Image.Image) else _picture_of(np.asarray(image))
    try:
        pixels = picture_as_seen(picture)
    except UnreadableImageError as reason:
        raise InputError(f"image: cannot be read: {reason}") from None
    name = Path(getattr(picture, "filename", "") or "image").name
    return OpenedImage(name, pixels, hashlib.sha256(repr(pixels.size).encode() + pixels.tobytes()).hexdigest())


def _opened_file(path: Path, max_pixels: int) -> OpenedImage:
    try:
        data = image_bytes(path)
    except OSError as error:
        raise InputError(
            f"--image {path}: cannot be read: {error.strerror or type(error).__name__}; expected an image file"
        ) from None
    try:
        return OpenedImage(path.name, decode_image(data, max_pixels), hashlib.sha256(data).hexdigest(), path)
    except UnreadableImageError as reason:
        raise InputError(f"--image {path}: cannot be read as an image: {reason}") from None


def _picture_of(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not fits or not pixels.size:
        raise InputError(
            f"image: found an array of {pixels.dtype} {list(pixels.shape)}; expected uint8 [height, width], "
            "[height, width, 3] or [height, width, 4]"
        )
    return Image.fromarray(pixels)
