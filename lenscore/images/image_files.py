"""Pictures as the user has them: found, fingerprinted, opened. What cannot be read is told, never hidden."""

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

import numpy as np
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
"""An image with more is refused, if nobody allows it: it may be made to fill the memory. Pillow's own limit."""

ANY_SIZE = 2**63
"""`max_pixels` for an image that was analysed: what it may have was settled then."""

LONGEST_STRIP = 200
"""An image with a side more than this many times the other is refused: resizing it would fill the memory."""


@dataclass(frozen=True)
class ImageFile:
    """One image of the user's: its absolute path, its content and perhaps what somebody said about it.

    `path` may lead into a Parquet file (`lenscore.images.table_cells`). `sha256` is "" and `bytes` is 0 where the file
    cannot be read. One with more than `max_pixels` is not opened.
    """

    path: Path
    sha256: str
    bytes: int
    caption: str | None
    max_pixels: int = MAX_PIXELS


class UnreadableImageError(Exception):
    """An image that cannot be used; the message is the reason, and the same for the same bytes."""


@cache
def image_suffixes() -> frozenset[str]:
    """What counts as an image in a folder or tar file: the endings of all formats that the installed Pillow decodes."""
    decoded = {name for name, (opener, _) in _formats().items() if not _is_stub(opener)} - _WITHOUT_DECODER
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in decoded)


_WITHOUT_DECODER = {"EPS", "MPEG"}  # one needs Ghostscript, of the other only the header is read


def _formats() -> dict[str, tuple[Callable[..., object], object]]:
    Image.init()
    return Image.OPEN  # type: ignore[return-value]


def _is_stub(opener: object) -> bool:
    return isinstance(opener, type) and issubclass(opener, PillowFile.StubImageFile)


_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Tables that folders of images of Hugging Face's datasets have, with the column file_name."""


def find_images(
    source: Path,
    caption_column: str = "",
    path_column: str = "",
    flag: str = "--images",
    notes: Notes | None = None,
) -> list[ImageFile]:
    """Every image of a folder, a list or a table, with the hash of its content.

    A folder is searched with its subfolders, in the order of the relative paths, but no table in it is read. A list
    (.txt) holds one path a line. A table (`lenscore.user_files.rows.TABLES`) has a column of paths or images (one of
    `PATH_COLUMNS`, if `path_column` names no other) and perhaps one of captions (one of `CAPTION_COLUMNS`, if
    `caption_column` names no other; several captions of an image are joined by " / "). Relative paths start at the
    folder of the list or table.
    `notes` counts what is left out. Raises InputError, naming ``flag``, if there is no such source or column, if the
    table is malformed, or if not one image file is there.
    """
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
    elif not source.exists():
        raise InputError(f"{flag} {source}: no such file or folder; expected {_SOURCES}")
    elif format_of(source.name) == ".txt":
        require_regular(source, f"{flag} {source}")
        lines = single_lines(Lines(source, "strict"))
        found = [(source.absolute().parent / line.strip(), None) for line in lines if line.strip()]
    elif format_of(source.name) in TABLES:
        found = _in_table(source, path_column, caption_column, notes)
    else:
        raise InputError(f"{flag} {source}: not a list of images; expected {_SOURCES}")
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
    """The image as RGB, turned as its EXIF says, transparency over white, the first frame of an animation.

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
    """The bytes of an image file as `open_image` gives them. Raises UnreadableImageError if they are none."""
    return _as_seen(lambda: _header_read(data, max_pixels))


_PILLOWS_LIMIT = threading.Lock()


def _header_read(data: bytes, max_pixels: int) -> Image.Image:
    with _PILLOWS_LIMIT:  # one for the whole process, where this one is of a call
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
    """A picture in memory as `open_image` would give it from a file. Raises UnreadableImageError if it cannot."""
    return _as_seen(lambda: picture)


def _as_seen(open_it: Callable[[], Image.Image]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; what matters is raised
            picture = open_it()
            _refuse_strips(*picture.size)
            return _rgb(ImageOps.exif_transpose(picture))
    except (UnreadableImageError, MemoryError):
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
    if picture.mode.startswith("I"):
        picture = _eight_bits(np.asarray(picture))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _eight_bits(levels: np.ndarray) -> Image.Image:
    """Grey levels of up to 16 bits; Pillow would cut everything above 255 to white.

    Cameras and scanners save 10 or 12 bits as 16, where they would be black: white is the largest value of the depth
    (8, 10, 12 or 16 bits) that all levels fit into.
    """
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
        refuse_machine_error(path, error)  # or the image would count as unreadable for ever
        return ImageFile(path, "", 0, caption)
    return ImageFile(path, hashlib.sha256(data).hexdigest(), len(data), caption)


def _in_table(
    source: Path, path_column: str, caption_column: str, notes: Notes
) -> Iterator[ImageFile | tuple[Path, str | None]]:
    """Images with captions; those whose bytes the table holds are hashed while they are at hand."""
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
