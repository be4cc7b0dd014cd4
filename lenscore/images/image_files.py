"""Image files of the user: found, fingerprinted, opened. Unreadable ones are reported with the reason."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageOps
from PIL import ImageFile as PillowFile

from lenscore.images.table_cells import PATH_COLUMNS, image_bytes, image_of_cell
from lenscore.user_files.finding import files_in, require_regular
from lenscore.user_files.notes import Notes
from lenscore.user_files.rows import CAPTION_COLUMNS, TABLES, Column, format_of, place, read_rows, texts_of
from lenscore.user_files.text_lines import Lines, single_lines
from storage_layouts.counts import counted
from storage_layouts.errors import InputError
from storage_layouts.machine_errors import refuse_machine_error

MAX_PIXELS = 178_956_970
"""Pillow's limit: larger images may be made to fill the memory, and are refused unless the user allows them."""

ANY_SIZE = 2**63
"""`max_pixels` for an image that was analysed before, within the limit of that run."""

LONGEST_STRIP = 200
"""Largest ratio of the sides of an image; resizing more extreme ones would fill the memory."""


@dataclass(frozen=True)
class ImageFile:
    """One image of the user: its absolute path, the hash and size of its content, and perhaps a caption.

    `path` may lead into a Parquet file (`lenscore.images.table_cells`). `sha256` is "" and `bytes` is 0 if the file
    cannot be read. An image with more than `max_pixels` is not opened.
    """

    path: Path
    sha256: str
    bytes: int
    caption: str | None
    max_pixels: int = MAX_PIXELS


class UnreadableImageError(Exception):
    """An image that cannot be used; the message is the reason and depends only on the bytes."""


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of images in a folder or tar file: all formats that the installed Pillow decodes."""
    suffixes = Image.registered_extensions()
    # EPS needs Ghostscript; of MPEG and of stubs Pillow reads only the header.
    excluded = {"EPS", "MPEG"} | {
        name
        for name, (opener, _) in Image.OPEN.items()
        if isinstance(opener, type) and issubclass(opener, PillowFile.StubImageFile)
    }
    decoded = Image.OPEN.keys() - excluded
    return frozenset(suffix for suffix, name in suffixes.items() if name in decoded)


_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Tables with the column file_name in image folders of Hugging Face datasets."""


def require_images(source: Path, flag: str = "--images") -> None:
    """Raises InputError, with `flag`, if a path is neither a folder nor a list or table of images."""
    if not source.exists():
        raise InputError(f"{flag} {source}: no such file or folder; expected {_SOURCES}")
    if not source.is_dir() and format_of(source.name) not in (".txt", *TABLES):
        raise InputError(f"{flag} {source}: not a list of images; expected {_SOURCES}")


def find_images(
    source: Path,
    caption_column: str = "",
    path_column: str = "",
    flag: str = "--images",
    notes: Notes | None = None,
) -> list[ImageFile]:
    """Every image of a folder, a list or a table, with the hash of its content.

    A folder is searched recursively, in the order of the relative paths; tables in it are not read. A list (.txt) has
    one path in each line, relative to its folder. A table (`lenscore.user_files.rows.TABLES`) has a column of paths or
    images (by default the first of `PATH_COLUMNS`) and perhaps one of captions (the first of `CAPTION_COLUMNS`);
    several captions of an image are joined by " / ". `notes` counts what is left out. Raises InputError, with `flag`,
    if there is no such source or column, if the table is malformed, or if there is no image.
    """
    require_images(source, flag)
    notes = notes or Notes()
    if source.is_dir():
        paths = files_in(source, lambda name: Path(name).suffix.lower() in image_suffixes(), notes)
        if not paths:
            left_out = "; ".join(notes.lines()) or "it is empty"
            raise InputError(
                f"{flag} {source}: no image in this folder ({left_out}); expected files such as .jpg, .png, .webp"
            )
        for place_of in sorted({source, *(path.parent for path in paths)}):
            for name in _METADATA:
                if (place_of / name).is_file():
                    notes.add(f"captions beside the images, not read ({flag} TABLE reads them)", str(place_of / name))
        found: Iterable[ImageFile | tuple[Path, str | None]] = [(path, None) for path in paths]
    elif format_of(source.name) == ".txt":
        require_regular(source, f"{flag} {source}")
        lines = single_lines(Lines(source, "strict"))
        found = [(source.absolute().parent / line.strip(), None) for line in lines if line.strip()]
    else:
        found = _in_table(source, path_column, caption_column, notes)
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda item: item if isinstance(item, ImageFile) else _fingerprint(*item), found))
    if not images:
        left_out = "".join(f" ({line})" for line in notes.lines())
        raise InputError(f"{flag} {source}: names no image{left_out}; expected a path a line, or a table with rows")
    if not any(image.sha256 for image in images):
        raise InputError(f"{flag} {source}: of {counted(len(images), 'file')} none can be read, e.g. {images[0].path}")
    return images


_SOURCES = f"a folder, a list (.txt), or a table ({', '.join(TABLES)})"


def open_image(image: ImageFile) -> Image.Image:
    """The image as RGB, rotated as in its EXIF data, transparency over white, the first frame of an animation.

    Raises UnreadableImageError if it is not an image, InputError if its content differs from the plan.
    """
    try:
        data = image_bytes(image.path)
    except OSError as error:
        refuse_machine_error(image.path, error)
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
    return decode_image(data, image.max_pixels)


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image file in memory, as from `open_image`. Raises UnreadableImageError if it is not an image."""
    return _as_seen(lambda: _header_read(data, max_pixels))


_PILLOWS_LIMIT = threading.Lock()


def _header_read(data: bytes, max_pixels: int) -> Image.Image:
    with _PILLOWS_LIMIT:  # which is global, whereas `max_pixels` is per call
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            picture = Image.open(io.BytesIO(data))
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if picture.width * picture.height > max_pixels:
        raise UnreadableImageError(
            f"{picture.width} x {picture.height} pixels, more than {max_pixels:,} "
            "(--max-pixels of lens analyze and lens show allows more)"
        )
    return picture


def picture_as_seen(picture: Image.Image) -> Image.Image:
    """A picture in memory, as from `open_image`. Raises UnreadableImageError if it cannot be converted."""
    return _as_seen(lambda: picture)


def _as_seen(open_it: Callable[[], Image.Image]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual metadata; errors are raised
            picture = open_it()
            if max(picture.size) > LONGEST_STRIP * min(picture.size):
                size = f"{picture.width} x {picture.height} pixels"
                raise UnreadableImageError(f"{size}: one side is over {LONGEST_STRIP} times the other")
            return _rgb(ImageOps.exif_transpose(picture))
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        reason = re.sub(r"\s*<[^>]*>", "", str(error)).strip()  # no memory addresses, so equal bytes give equal reasons
        raise UnreadableImageError(reason or type(error).__name__) from None


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise UnreadableImageError("floating-point pixels, whose black and white are not known")
    if picture.mode == "LAB":
        raise UnreadableImageError("LAB colours, which are not understood; save it as RGB")
    if picture.mode.startswith("I"):
        picture = _eight_bits(picture)
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey levels of up to 16 bits as 8 bits; Pillow would clip everything above 255.

    White is the largest value of the smallest depth (8, 10, 12 or 16 bits) that holds all levels, because cameras and
    scanners save 10 or 12 bits as 16.
    """
    import numpy as np

    levels = np.asarray(picture)
    least, most = int(levels.min()), int(levels.max())
    if least < 0 or most > 65535:
        raise UnreadableImageError(f"levels from {least} to {most}, whose white is not known; expected 16 bits")
    white = next(white for white in (255, 1023, 4095, 65535) if most <= white)
    return Image.fromarray((levels * (255 / white)).round().astype(np.uint8))


def _fingerprint(path: Path, caption: str | None) -> ImageFile:
    path = path.absolute()
    try:
        data = image_bytes(path)
    except OSError as error:
        refuse_machine_error(path, error)  # otherwise the image would be recorded as unreadable
        return ImageFile(path, "", 0, caption)
    return ImageFile(path, hashlib.sha256(data).hexdigest(), len(data), caption)


def _in_table(
    source: Path, path_column: str, caption_column: str, notes: Notes
) -> Iterator[ImageFile | tuple[Path, str | None]]:
    """Images or paths, with captions; images in the table are hashed here."""
    columns = [
        Column("--path-column", path_column, PATH_COLUMNS),
        Column("--caption-column", caption_column, CAPTION_COLUMNS, needed=False),
    ]
    for number, (value, said) in read_rows(source, columns):
        where = place(source, number)
        cell = image_of_cell(value, source, columns[0], number, where)
        if cell is None:
            notes.add("rows without an image, left out", source.name)
            continue
        caption = " / ".join(texts_of(said, where)) or None
        if cell.data is None:
            yield cell.path, caption
        else:
            yield ImageFile(cell.path, hashlib.sha256(cell.data).hexdigest(), len(cell.data), caption)
