"""Image-caption data of any common format as one list of pairs: where each image lies, and what is said of it.

A folder with one table (`lenscore.user_files.rows.TABLES`), such a table itself, webdataset tar files, or "hf:NAME" or
"hf:NAME:SPLIT" for a data set that the `datasets` library reads.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lenscore.images.image_files import UnreadableImageError, decode_image, picture_as_seen
from lenscore.images.table_cells import PATH_COLUMNS, image_bytes, image_of_cell
from lenscore.training.webdataset import samples_of
from lenscore.user_files.finding import path_from_stored, require_regular, stored_path
from lenscore.user_files.notes import Notes
from lenscore.user_files.rows import CAPTION_COLUMNS, TABLES, Column, format_of, place, read_rows, texts_of
from storage_layouts.counts import counted
from storage_layouts.errors import InputError, first_line
from storage_layouts.files import canonical_json

HUB_PREFIX = "hf:"
WITHOUT_CAPTION = "images without a caption, left out"


@dataclass(frozen=True)
class Columns:
    """Names of the columns; "" takes the usual ones, and for `prompt` none."""

    image: str = ""
    caption: str = ""
    prompt: str = ""

    def of_text(self, *usual: str) -> tuple[Column, Column]:
        """The columns of captions and prompts; `usual` are further names of captions."""
        caption = Column("--caption-column", self.caption, (*usual, *CAPTION_COLUMNS))
        return caption, Column("--prompt-column", self.prompt, needed=False)


@dataclass(frozen=True)
class Pair:
    """One example: `size` bytes at `offset` of the file `source` are the image (of a "hf:" source: row `offset`).

    `size` is -1 for a file that is not there, and for "hf:". `prompt` comes between image and caption and is given, not
    learnt.
    """

    source: str
    offset: int
    size: int
    prompt: str
    caption: str


def find_pairs(data: str, columns: Columns, notes: Notes | None = None) -> list[Pair]:
    """All pairs of a data set, in its order; an image with several captions makes several pairs.

    `notes` counts what is left out. Raises InputError, naming file, line and column, if there is no such data, if a
    file is truncated, malformed or lacks a column, if no pair has a caption, or if not one of the images is there.
    """
    notes = notes or Notes()
    if data.startswith(HUB_PREFIX):
        pairs = list(_of_hub(data, columns, notes))
    else:
        pairs = [pair for file in _files(Path(data), notes) for pair in _of_file(file, columns, notes)]
    if not pairs:
        left_out = "".join(f"; {line}" for line in notes.lines())
        raise InputError(f"--data {data}: no image with a caption in it{left_out}")
    if not data.startswith(HUB_PREFIX) and all(pair.size < 0 for pair in pairs):
        raise InputError(f"--data {data}: of {counted(len(pairs), 'image')} none is there, e.g. {pairs[0].source}")
    return pairs


def require_data(data: str) -> None:
    """Raises InputError if `find_pairs` could not list the data, because it is not there or holds no file for it."""
    if not data.startswith(HUB_PREFIX):
        _files(Path(data), Notes())


def fingerprint(pairs: list[Pair]) -> str:
    """SHA-256 over places, sizes, prompts and captions (the bytes of the images are not read)."""
    return hashlib.sha256(canonical_json([list(asdict(pair).values()) for pair in pairs])).hexdigest()


class ImageReader:
    """Opens the images of pairs; may be used by several threads."""

    def __init__(self) -> None:
        self._hub: dict[str, Any] = {}

    def open(self, pair: Pair) -> Image.Image:
        """The image of a pair as RGB, turned as its EXIF says.

        Raises UnreadableImageError if it is not an image; InputError if the file has changed since it was listed.
        """
        if pair.source.startswith(HUB_PREFIX):
            if pair.source not in self._hub:
                self._hub[pair.source] = _load_hub(pair.source)
            picture = self._hub[pair.source][pair.offset]["image"]
            if picture is None:
                raise UnreadableImageError("no image in this row")
            return picture_as_seen(picture)
        path = path_from_stored(pair.source)
        try:
            data, reason = _bytes_at(path, pair), ""
        except OSError as error:
            data, reason = b"", error.strerror or type(error).__name__
        size = -1 if reason else len(data)
        if size != pair.size:
            raise InputError(
                f"{path}: changed since the run was planned ({pair.size} bytes then, {size} now); "
                "put the old file back, or train into a new folder"
            )
        if reason:
            raise UnreadableImageError(reason)
        return decode_image(data)


def _bytes_at(path: Path, pair: Pair) -> bytes:
    if path.suffix.lower() != ".tar":
        return image_bytes(path)
    with path.open("rb") as file:
        file.seek(pair.offset)
        return file.read(pair.size)


def _files(source: Path, notes: Notes) -> list[Path]:
    if source.exists() and not source.is_dir() and _is_data(source):
        require_regular(source, f"--data {source}")
        return [source]
    if not source.is_dir():
        what = "not image-caption data" if source.exists() else "no such file or folder"
        raise InputError(f"--data {source}: {what}; expected a folder, {', '.join(TABLES)}, .tar, or hf:NAME")
    found = sorted(path for path in source.iterdir() if _is_data(path) and path.is_file() and path.name[0] != ".")
    tars = [path for path in found if path.suffix.lower() == ".tar"]
    tables = [path for path in found if path not in tars and format_of(path.name) != ".json"]
    tables = tables or [path for path in found if path not in tars]  # a .json beside a table describes it
    for path in found:
        if path not in (*tables, *tars):
            notes.add("files of other kinds, not taken", path.name)
    if tars and not tables:
        for path in sorted(path for path in source.iterdir() if path.is_dir()):
            notes.add("folders beside the tar files, not searched", path.name)
        return tars
    if tars or len(tables) != 1:
        names = ", ".join(path.name for path in [*tables, *tars][:5]) or "none"
        raise InputError(f"--data {source}: expected one table ({', '.join(TABLES)}) or tar files in it, found {names}")
    return tables


def _is_data(path: Path) -> bool:
    return path.suffix.lower() == ".tar" or format_of(path.name) in TABLES


def _of_file(file: Path, columns: Columns, notes: Notes) -> Iterator[Pair]:
    return _of_tar(file, columns, notes) if file.suffix.lower() == ".tar" else _of_table(file, columns, notes)


def _of_table(file: Path, columns: Columns, notes: Notes) -> Iterator[Pair]:
    image_column = Column("--image-column", columns.image, PATH_COLUMNS)
    for number, (value, caption, prompt) in read_rows(file, [image_column, *columns.of_text()]):
        where = place(file, number)
        cell = image_of_cell(value, file, image_column, number, where)
        if cell is None:
            notes.add("rows without an image, left out", file.name)
        else:
            size = len(cell.data) if cell.data is not None else _size(cell.path)
            yield from _pairs(stored_path(cell.path), 0, size, caption, prompt, where, file.name, notes)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _pairs(
    source: str, offset: int, size: int, caption: Any, prompt: Any, where: str, name: str, notes: Notes
) -> Iterator[Pair]:
    """One pair for each caption of an image."""
    captions = texts_of(caption, where)
    if not captions:
        notes.add(WITHOUT_CAPTION, name)
    for text in captions:
        yield Pair(source, offset, size, " ".join(texts_of(prompt, where)), text)


def _of_hub(data: str, columns: Columns, notes: Notes) -> Iterator[Pair]:
    dataset = _load_hub(data)
    if "image" not in dataset.column_names:
        raise InputError(f"--data {data}: no column 'image'; it has {', '.join(dataset.column_names)}")
    texts = dataset.remove_columns(["image"])  # or every image would be decoded here
    names = [name for name in dataset.column_names if name != "image"]
    caption, prompt = (column.among(names, f"--data {data}") for column in columns.of_text())
    for number, row in enumerate(texts):
        said, asked = (None if index is None else row[names[index]] for index in (caption, prompt))
        yield from _pairs(data, number, -1, said, asked, f"{data}, row {number + 1}", data, notes)


def _of_tar(file: Path, columns: Columns, notes: Notes) -> Iterator[Pair]:
    source = stored_path(file.absolute())
    captions, prompts = columns.of_text("txt")
    for where, fields, offset, size in samples_of(file, notes):
        names = list(fields)
        indices = captions.among(names, where, may_lack=True), prompts.among(names, where)
        caption, prompt = (None if index is None else fields[names[index]] for index in indices)
        yield from _pairs(source, offset, size, caption, prompt, where, file.name, notes)


def _load_hub(data: str) -> Any:
    name, _, split = data.removeprefix(HUB_PREFIX).partition(":")
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise InputError(f"--data {data}: needs the datasets library (pip install datasets)") from None
    try:
        return datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # whatever datasets and the Hub raise
        raise InputError(f"--data {data}: cannot be loaded ({first_line(error)})") from None
