"""Text corpora of any common format, streamed as one sentence after the other.

Formats by file name: .txt (a sentence a line; also any unknown ending), .csv, .tsv, .jsonl, .parquet, and each of the
text formats compressed as .gz or .zst. A folder stands for all its files, in order of their paths.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from storage_layouts.errors import InputError, MissingFileError, first_line

EncodingErrors = Literal["strict", "replace"]
TEXT_COLUMNS = ("text", "sentence", "caption", "phrase")
"""Column names that are taken for the text when no `column` is given, in this order."""

_ENDINGS = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")


def corpus_files(sources: Sequence[Path]) -> list[Path]:
    """The files that the given files and folders stand for; a folder gives its corpus files, recursively, sorted.

    Raises InputError for a path that does not exist and for a folder without corpus files.
    """
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            found = sorted(path for path in source.rglob("*") if path.is_file() and _format(path, None) is not None)
            if not found:
                raise InputError(f"--corpus {source}: no corpus file in this folder; expected {', '.join(_ENDINGS)}")
            files += found
        elif source.is_file():
            files.append(source)
        else:
            raise MissingFileError(f"--corpus {source}: no such file or folder")
    if not files:
        raise InputError("--corpus: no file was given")
    return files


def read_corpus(
    files: Iterable[Path], column: str | None = None, encoding_errors: EncodingErrors = "strict"
) -> Iterator[str]:
    """Stream the sentences of the files, stripped, empty ones left out.

    `column` names the text column of tables and JSON objects; without it the first of `TEXT_COLUMNS` that is there
    is taken, else the first column (a table whose first line holds no such name has no header). Raises InputError,
    naming file and line, for bytes that are not UTF-8 (unless `encoding_errors` is "replace") and for a broken file.
    """
    for path in files:
        for text in _sentences_of(path, column, encoding_errors):
            stripped = text.strip()
            if stripped:
                yield stripped


def load_corpus(source: str | Path | Sequence[str]) -> list[str]:
    """A corpus as a list: a list of strings is returned as it is, a path is read.

    As in the latentlens library, a .csv gives its first column, without the first line if that begins like a name
    of a column (text, sentence, caption, id, index), and "concepts.txt" is the corpus of that library, if it is
    installed. Everything else is read with `read_corpus`.
    """
    if not isinstance(source, (str, Path)):
        return source if isinstance(source, list) else list(source)
    path = Path(source)
    if not path.is_absolute() and not path.exists() and path.name == "concepts.txt":
        path = _concepts_of_latentlens()
    if path.name.lower().endswith(".csv") and path.is_file():
        return list(_first_column(path))
    return list(read_corpus(corpus_files([path])))


def _concepts_of_latentlens() -> Path:
    """Where the installed latentlens package keeps its corpus; found without importing it."""
    spec = importlib.util.find_spec("latentlens")
    places = list(spec.submodule_search_locations or ()) if spec else []
    for place in places:
        if (Path(place) / "data" / "concepts.txt").is_file():
            return Path(place) / "data" / "concepts.txt"
    raise MissingFileError(
        "corpus concepts.txt: no such file here; it comes with the latentlens package "
        "(pip install --no-deps latentlens==0.1.0), or give its path"
    )


def _first_column(path: Path) -> Iterator[str]:
    names = ("text", "sentence", "caption", "id", "index")
    try:
        for number, row in enumerate(csv.reader(_lines(path, "strict"))):
            text = row[0].strip() if row else ""
            if text and not (number == 0 and text.lower().startswith(names)):
                yield text
    except csv.Error as error:
        raise InputError(f"{path}: not a readable table ({error})") from None


def hash_files(files: Iterable[Path]) -> str:
    """SHA-256 over the bytes of the files in their order: the identity of a corpus."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest() if _HAS_FILE_DIGEST else _sha256(stream))
    return total.hexdigest()


_HAS_FILE_DIGEST = hasattr(hashlib, "file_digest")  # Python >= 3.11


def _sha256(stream: BinaryIO) -> bytes:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.digest()


def _format(path: Path, default: str | None) -> str | None:
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    return next((ending for ending in _ENDINGS if name.endswith(ending)), default)


def _sentences_of(path: Path, column: str | None, errors: EncodingErrors) -> Iterator[str]:
    kind = _format(path, ".txt")
    if kind == ".parquet":
        return _from_parquet(path, column)
    lines = _lines(path, errors)
    if kind == ".csv":
        return _from_table(path, csv.reader(lines), column)
    if kind == ".tsv":
        return _from_table(path, csv.reader(lines, delimiter="\t"), column)
    if kind == ".jsonl":
        return _from_jsonl(path, lines, column)
    return lines


def _lines(path: Path, errors: EncodingErrors) -> Iterator[str]:
    """Decoded lines, their ends kept (a quoted CSV field may hold one)."""
    number = 0
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, start=1):
                yield line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: not UTF-8 (byte 0x{error.object[error.start]:02x} at column {error.start + 1}); "
            "convert the file, or add --encoding-errors replace"
        ) from None
    except (gzip.BadGzipFile, zstandard.ZstdError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: broken or truncated compressed file after line {number} ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _open(path: Path) -> BinaryIO:
    if path.name.lower().endswith(".gz"):
        return cast(BinaryIO, gzip.open(path))
    if path.name.lower().endswith(".zst"):
        return cast(BinaryIO, io.BufferedReader(zstandard.open(path, "rb")))
    return path.open("rb")


def _from_table(path: Path, rows: Iterator[list[str]], column: str | None) -> Iterator[str]:
    try:
        first = next(rows, [])
        names = [name.strip() for name in first]
        index, is_header = _text_column(path, names, column)
        if not is_header and first:
            yield first[0]
        for row in rows:
            if len(row) > index:
                yield row[index]
    except csv.Error as error:
        raise InputError(f"{path}: not a readable table ({error})") from None


def _text_column(path: Path, names: Sequence[str], column: str | None) -> tuple[int, bool]:
    """Index of the text column, and whether `names` is a header at all."""
    lowered = [name.lower() for name in names]
    if column is not None:
        if column not in names:
            raise InputError(f"{path}: no column {column!r}; it has {', '.join(names) or 'none'} (--column)")
        return names.index(column), True
    known = next((name for name in TEXT_COLUMNS if name in lowered), None)
    return (lowered.index(known), True) if known else (0, False)


def _from_jsonl(path: Path, lines: Iterator[str], column: str | None) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error.msg})") from None
        if isinstance(value, dict):
            name = column or next((name for name in TEXT_COLUMNS if name in value), None)
            if name is None or name not in value:
                raise InputError(
                    f"{path}, line {number}: no field {column or ' or '.join(TEXT_COLUMNS)}; "
                    f"it has {', '.join(value) or 'none'} (--column)"
                )
            value = value[name]
        if not isinstance(value, str):
            raise InputError(f"{path}, line {number}: expected a text, found {type(value).__name__}")
        yield value


def _from_parquet(path: Path, column: str | None) -> Iterator[str]:
    try:
        table = pq.ParquetFile(path)
        index, _ = _text_column(path, table.schema_arrow.names, column)
        field = table.schema_arrow.field(index)
        if not (pa.types.is_string(field.type) or pa.types.is_large_string(field.type)):
            raise InputError(f"{path}: column {field.name!r} holds {field.type}, expected text (--column)")
        for batch in table.iter_batches(columns=[field.name]):
            yield from (text for text in batch.column(0).to_pylist() if text is not None)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({first_line(error)})") from None
