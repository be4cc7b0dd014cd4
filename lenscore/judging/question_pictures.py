"""The two pictures of a question: the image as the model saw it with a red box around a patch, and a close crop.

Both come from the stored geometry: the region that the model saw is the region that its patches cover, stretched as the
patches were. Padding is not shown, since no patch of the original image lies there.
"""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from lenscore.images.image_files import ANY_SIZE, ImageFile, UnreadableImageError, open_image
from lenscore.judging.patches import Box, ImagePatches, PatchRef
from lenscore.user_files.finding import path_from_stored
from storage_layouts.errors import InputError

if TYPE_CHECKING:
    from lenscore.judging.questions import QuestionSettings

_RED = (255, 0, 0)


class Picture:
    """A picture of a question. Two are equal if their pixels are, whatever library packs them.

    Attributes:
        size: width and height in pixels.
        sha256: of the size and the RGB pixels.

    """

    def __init__(self, pixels: Image.Image) -> None:
        self.size = pixels.size
        self.sha256 = hashlib.sha256(repr(self.size).encode() + pixels.tobytes()).hexdigest()
        self._pixels: Image.Image | None = pixels
        self._png: bytes | None = None

    @property
    def png(self) -> bytes:
        """The picture as it is sent; packed at the first use, because that takes longer than drawing it."""
        pixels = self._pixels  # before the test: another thread may pack it at this moment
        if self._png is None:
            assert pixels is not None
            buffer = io.BytesIO()
            pixels.save(buffer, "PNG")
            self._png = buffer.getvalue()
            self._pixels = None
        return self._png

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and other.sha256 == self.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)


def question_pictures(image: ImagePatches, place: PatchRef, settings: QuestionSettings) -> tuple[Picture, Picture]:
    """The image with the box around the patch, and the close crop without it.

    The box is a square around the middle of the patch whose side is ``box_share`` of the longer side of the picture,
    never smaller than the patch, cut off where the image ends; the crop is ``crop`` times as large. The longer sides
    of the two pictures have ``image_side`` and ``crop_side`` pixels. Equal arguments give equal pixels.

    Args:
        image: the image with all its patches.
        place: the patch.
        settings: the sizes named above.

    Raises:
        InputError: the image file is gone or has changed since the analysis.

    """
    original = _opened(image.path, image.sha256)
    seen = _seen(image, original.size)
    stretched = _stretched(image, place.view, original.size)
    return _pictures(image.path, image.sha256, seen, stretched, place.box, settings)


@lru_cache(maxsize=8)
def _pictures(
    path: str, sha256: str, seen: Box, stretched: float, patch: Box, settings: QuestionSettings
) -> tuple[Picture, Picture]:
    """See `question_pictures`. Cached, because every layer and lens asks about the same patch."""
    original = _opened(path, sha256)
    region = _pixels(seen, original.size)
    width, height = region[2] - region[0], (region[3] - region[1]) * stretched
    shown = _without_box(path, sha256, region, _fitting(width, height, settings.image_side)).copy()
    scale = shown.width / width, shown.height / (height / stretched)  # pixels shown per original pixel
    left, top, right, bottom = _pixels(patch, original.size)
    x, y = ((left + right) / 2 - region[0]) * scale[0], ((top + bottom) / 2 - region[1]) * scale[1]
    smallest = max((right - left) * scale[0], (bottom - top) * scale[1])
    side = max(settings.box_share * max(shown.size), smallest)
    close = _around(x, y, settings.crop * side, shown.size)
    xs, ys = ([region[axis] + edge / scale[axis] for edge in close[axis::2]] for axis in (0, 1))
    size = _fitting(close[2] - close[0], close[3] - close[1], settings.crop_side)
    cropped = _resized(original, (xs[0], ys[0], xs[1], ys[1]), size)
    _draw_box(shown, _around(x, y, side, shown.size))
    return Picture(shown), Picture(cropped)


@lru_cache(maxsize=4)
def _without_box(path: str, sha256: str, region: Box, size: tuple[int, int]) -> Image.Image:
    """The picture of the whole image, which several patches share."""
    return _resized(_opened(path, sha256), region, size)


@lru_cache(maxsize=4)
def _opened(path: str, sha256: str) -> Image.Image:
    try:
        return open_image(ImageFile(path_from_stored(path), sha256, 0, None, ANY_SIZE))
    except UnreadableImageError as error:
        raise InputError(f"{path}: it was readable when it was analysed, but now is not: {error}") from None


def _seen(image: ImagePatches, size: tuple[int, int]) -> Box:
    """What all patches together cover, in shares of the original; at least one pixel."""
    left, top, right, bottom = image.extent
    return left, top, max(right, left + 1 / size[0]), max(bottom, top + 1 / size[1])


def _stretched(image: ImagePatches, view: int, size: tuple[int, int]) -> float:
    """How much more the processor stretched the height than the width; patches are square in the model's input.

    Read from the largest patch of the view that touches no border of the image, where padding would cut it short; 1.0
    if there is none.
    """
    width, height = image.inner_patches.get(view, (0.0, 0.0))
    return (width * size[0]) / (height * size[1]) if width else 1.0


def _pixels(box: Box, size: tuple[int, int]) -> Box:
    return box[0] * size[0], box[1] * size[1], box[2] * size[0], box[3] * size[1]


def _fitting(width: float, height: float, side: int) -> tuple[int, int]:
    """The size in pixels of this proportion whose longer side is ``side``."""
    scale = side / max(width, height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _resized(original: Image.Image, region: Box, size: tuple[int, int]) -> Image.Image:
    box = max(region[0], 0.0), max(region[1], 0.0), min(region[2], original.width), min(region[3], original.height)
    return original.resize(size, Image.Resampling.BICUBIC, box=box)


def _around(x: float, y: float, side: float, size: tuple[int, int]) -> Box:
    """The square around a point, cut off where the picture ends."""
    return max(x - side / 2, 0), max(y - side / 2, 0), min(x + side / 2, size[0]), min(y + side / 2, size[1])


def _draw_box(picture: Image.Image, box: Box) -> None:
    """Draw a red line around the box, outside of it, so that it hides nothing.

    A thin white line around the red one keeps it visible on red.
    """
    red = max(2, max(picture.size) // 128)
    draw = ImageDraw.Draw(picture)
    for colour, margin, line in (("white", red + 1, 1), (_RED, red, red)):
        left, top, right, bottom = (round(edge) for edge in box)
        last = picture.width - 1, picture.height - 1
        corner = min(right + margin - 1, last[0]), min(bottom + margin - 1, last[1])
        draw.rectangle((max(left - margin, 0), max(top - margin, 0), *corner), outline=colour, width=line)
