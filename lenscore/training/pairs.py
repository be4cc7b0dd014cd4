"""Image-caption data of any common format as one list of pairs: where each image lies, and what is said of it.

A folder with one table (jsonl, csv, tsv, parquet), such a table itself, webdataset tar files, or "hf:NAME" or
"hf:NAME:SPLIT" for a data set that the `datasets` library reads.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lenscore.images import PATH_COLUMNS, SUFFIXES, decode_image
from lenscore.table_files import read_table_file
from storage_layouts.errors import InputError, first_line
from storage_layouts.files import canonical_json

TABLES = (".jsonl", ".csv", ".tsv", ".parquet")
CAPTION_COLUMNS = ("caption", "text", "answer")
"""Columns (or JSON fields, or members of a tar file) taken for the captions, the first that is there."""

HUB_PREFIX = "hf:"


@dataclass(frozen=True)
class Columns:
    """Names of the columns; "" takes the usual ones, and for `prompt` none."""

    image: str = ""
    caption: str = ""
    prompt: str = ""


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


def find_pairs(data: str, columns: Columns) -> list[Pair]:
    """All pairs of a data set, in its order; those without a caption are left out.

    Raises InputError, naming file, line and column, if there is no such data, if a table is broken or lacks a column,
    if no pair has a caption, or if not one of the images is there.
    """
    if data.startswith(HUB_PREFIX):
        pairs = list(_of_hub(data, columns))
    else:
        source = Path(data)
        files = _files(source)
        rows = (_of_tar(file, columns) if file.suffix == ".tar" else _of_table(file, columns) for file in files)
        pairs = [pair for found in rows for pair in found]
    pairs = [pair for pair in pairs if pair.caption]
    if not pairs:
        raise InputError(f"--data {data}: no image with a caption in it")
    if not data.startswith(HUB_PREFIX) and all(pair.size < 0 for pair in pairs):
        raise InputError(f"--data {data}: none of its {len(pairs)} images is there, e.g. {pairs[0].source}")
    return pairs


def fingerprint(pairs: list[Pair]) -> str:
    """SHA-256 over places, sizes, prompts and captions (the bytes of the images are not read)."""
    return hashlib.sha256(canonical_json([list(asdict(pair).values()) for pair in pairs])).hexdigest()


class ImageReader:
    """Opens the images of pairs; may be used by several threads."""

    def __init__(self) -> None:
        self._hub: dict[str, Any] = {}

    def open(self, pair: Pair) -> Image.Image:
        """The image of a pair as RGB, turned as its EXIF says.

        Raises UnreadableImageError if it is none; InputError if the file has changed since it was listed.
        """
        if pair.source.startswith(HUB_PREFIX):
            if pair.source not in self._hub:
                self._hub[pair.source] = _load_hub(pair.source)
            picture: Image.Image = self._hub[pair.source][pair.offset]["image"]
            return picture.convert("RGB")
        path = Path(pair.source)
        size = path.stat().st_size if path.is_file() else -1
        data = b""
        if size >= 0:
            with path.open("rb") as file:
                file.seek(pair.offset)
                data = file.read(max(pair.size, 0) if path.suffix == ".tar" else size)
        if (len(data) if size >= 0 else -1) != pair.size:
            raise InputError(
                f"{path}: changed since the run was planned ({pair.size} bytes then, {size} now); "
                "put the old file back, or train into a new folder"
            )
        return decode_image(data)


def _files(source: Path) -> list[Path]:
    if source.is_file() and source.suffix.lower() in (*TABLES, ".tar"):
        return [source]
    if not source.is_dir():
        what = "not image-caption data" if source.exists() else "no such file or folder"
        raise InputError(f"--data {source}: {what}; expected a folder, {', '.join(TABLES)}, .tar, or hf:NAME")
    tars = sorted(source.glob("*.tar"))
    tables = sorted(path for path in source.iterdir() if path.suffix.lower() in TABLES)
    if tars and not tables:
        return tars
    if tars or len(tables) != 1:
        found = ", ".join(path.name for path in [*tables, *tars][:5]) or "none"
        raise InputError(f"--data {source}: expected one table ({', '.join(TABLES)}) or tar files in it, found {found}")
    return tables


def _of_table(file: Path, columns: Columns) -> Iterator[Pair]:
    rows = _json_rows(file) if file.suffix.lower() == ".jsonl" else _table_rows(file)
    for where, row in rows:
        path = file.parent / str(_value(row, columns.image, PATH_COLUMNS, where, "--image-column"))
        size = path.stat().st_size if path.is_file() else -1
        caption = _text(_value(row, columns.caption, CAPTION_COLUMNS, where, "--caption-column"))
        yield Pair(str(path.absolute()), 0, size, _prompt(row, columns, where), caption)


def _json_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise InputError(
                        f"{file}, line {number}: expected an object as in {{'image': ..., 'caption': ...}}"
                    )
                yield f"{file}, line {number}", row
    except json.JSONDecodeError as error:
        raise InputError(f"{file}, line {number}: not JSON ({error.msg})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 at byte {error.start}") from None


def _table_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    table = read_table_file(file, str(file))
    names = [str(name) for name in table.columns]
    for values in table.itertuples(index=False, name=None):
        yield str(file), dict(zip(names, values, strict=True))


def _of_tar(file: Path, columns: Columns) -> Iterator[Pair]:
    """The samples of a webdataset file: members with one name up to the first dot, one of them an image."""
    sample: dict[str, Any] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if f"{folder}/{stem}" != sample.get("key"):
                    yield from _sample(file, sample, columns)
                    sample = {"key": f"{folder}/{stem}"}
                if f".{ending.lower()}" in SUFFIXES:
                    sample["image"] = (member.offset_data, member.size)
                elif ending.lower() in ("txt", "json", *CAPTION_COLUMNS):
                    content = archive.extractfile(member)
                    sample[ending.lower()] = content.read().decode() if content else ""
        yield from _sample(file, sample, columns)
    except (tarfile.TarError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a readable tar file ({error})") from None


def _sample(file: Path, sample: dict[str, Any], columns: Columns) -> Iterator[Pair]:
    if "image" not in sample:
        return
    where = f"{file}, sample {sample['key'].lstrip('/')}"
    try:
        fields = {name: text for name, text in sample.items() if name in ("txt", *CAPTION_COLUMNS)}
        fields |= json.loads(sample.get("json", "{}"))
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg})") from None
    caption = _value(fields, columns.caption, ("txt", *CAPTION_COLUMNS), where, "--caption-column")
    offset, size = sample["image"]
    yield Pair(str(file.absolute()), offset, size, _prompt(fields, columns, where), _text(caption))


def _of_hub(data: str, columns: Columns) -> Iterator[Pair]:
    dataset = _load_hub(data)
    if "image" not in dataset.column_names:
        raise InputError(f"--data {data}: no column 'image'; it has {', '.join(dataset.column_names)}")
    texts = dataset.remove_columns(["image"])  # or every image would be decoded here
    for number, row in enumerate(texts):
        caption = _value(row, columns.caption, CAPTION_COLUMNS, data, "--caption-column")
        yield Pair(data, number, -1, _prompt(row, columns, data), _text(caption))


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


def _prompt(row: dict[str, Any], columns: Columns, where: str) -> str:
    return _text(_value(row, columns.prompt, (), where, "--prompt-column")) if columns.prompt else ""


def _value(row: dict[str, Any], asked: str, usual: tuple[str, ...], where: str, flag: str) -> Any:
    name = asked or next((name for name in usual if name in row), "")
    if name not in row:
        expected = repr(asked) if asked else " or ".join(map(repr, usual))
        raise InputError(f"{where}: no column {expected}; it has {', '.join(map(repr, row)) or 'none'} ({flag})")
    return row[name]


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""
