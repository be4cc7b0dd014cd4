"""Text corpora in common formats, streamed sentence by sentence.

The formats are those of `lenscore.user_files.rows`.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lenscore.user_files.finding import files_in, require_regular
from lenscore.user_files.notes import Notes
from lenscore.user_files.rows import FORMATS, Column, format_of, place, read_rows, texts_of
from lenscore.user_files.text_lines import EncodingErrors, Lines, csv_records
from storage_layouts.counts import counted
from storage_layouts.errors import InputError, MissingFileError

__all__ = ["EncodingErrors", "corpus_files", "hash_files", "load_corpus", "read_corpus"]

TEXT_COLUMNS = ("text", "sentence", "caption", "phrase")
"""Names of the text column, in order of preference, if no `column` is given."""


def corpus_files(sources: Sequence[Path], notes: Notes | None = None) -> list[Path]:
    """The given files, and the corpus files of the given folders (recursive, sorted).

    Links to folders are followed; `notes` counts skipped files. Raises InputError for a path that does not exist or
    is not a regular file, and for a folder without corpus files.
    """
    notes = notes or Notes()
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            found = files_in(source, lambda name: format_of(name) is not None, notes)
            if not found:
                left_out = "; ".join(notes.lines()) or "it is empty"
                raise InputError(
                    f"--corpus {source}: no corpus file in this folder ({left_out}); expected {', '.join(FORMATS)}"
                )
            files += found
        elif source.exists():
            require_regular(source, f"--corpus {source}")
            files.append(source)
        else:
            raise MissingFileError(f"--corpus {source}: no such file or folder")
    if not files:
        raise InputError("--corpus: no file was given")
    return files


def read_corpus(
    files: Iterable[Path],
    column: str | None = None,
    encoding_errors: EncodingErrors = "strict",
    notes: Notes | None = None,
) -> Iterator[str]:
    """Stream the non-empty sentences of the files, stripped.

    `column` is the text column of tables and JSON objects (None: the first of `TEXT_COLUMNS` that exists); a list of
    texts gives one sentence each, and texts may also stand without a column, see `read_rows`. `notes` counts rows and
    files without a text. Raises InputError, with file and line, for invalid UTF-8 (unless `encoding_errors` is
    "replace"), for a truncated or malformed file, for a missing column, and at the end if no sentence was found.
    """
    wanted = Column("--column", column or "", TEXT_COLUMNS)
    notes = notes or Notes()
    files = list(files)
    has_sentences = False
    for path in files:
        is_table = format_of(path.name) not in (None, ".txt")
        sentences = 0
        for number, (value,) in read_rows(path, [wanted], encoding_errors, bare_texts=True):
            if type(value) is str and value.isascii():  # a faster path for most texts, with the same result
                texts = [stripped] if (stripped := value.strip()) else []
            else:
                texts = texts_of(value, place(path, number), encoding_errors)
            yield from texts
            sentences += len(texts)
            if is_table and not texts:
                notes.add("rows without a text, left out", path.name)
        has_sentences = has_sentences or sentences > 0
        if not sentences:
            notes.add("files without a text", path.name)
    if files and not has_sentences:
        more = f" nor the {counted(len(files) - 1, 'file')} after it" if len(files) > 1 else ""
        raise InputError(f"--corpus {files[0]}: holds no sentence{more}; expected lines or rows with text")


def load_corpus(source: str | Path | Sequence[str]) -> list[str]:
    """A corpus as a list: a list of strings is returned unchanged, a path is read.

    As in the latentlens library, a .csv gives its first column, without a header (a first line that starts with text,
    sentence, caption, id or index), and "concepts.txt" is the corpus of the installed latentlens package. Other
    files are read with `read_corpus`.
    """
    if not isinstance(source, (str, Path)):
        return source if isinstance(source, list) else list(source)
    path = Path(source)
    if not path.is_absolute() and not path.exists() and path.name == "concepts.txt":
        path = _concepts_of_latentlens()
    if path.name.lower().endswith(".csv") and path.is_file():
        texts = list(_first_column(path))
        if not texts:
            raise InputError(f"corpus {path}: holds no sentence in its first column")
        return texts
    return list(read_corpus(corpus_files([path])))


def _concepts_of_latentlens() -> Path:
    """Path of the corpus in the installed latentlens package, which is not imported."""
    spec = importlib.util.find_spec("latentlens")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / "data" / "concepts.txt").is_file():
            return path
    raise MissingFileError(
        "corpus concepts.txt: no such file here; it comes with the latentlens package "
        "(pip install --no-deps latentlens==0.1.0), or give its path"
    )


def _first_column(path: Path) -> Iterator[str]:
    names = ("text", "sentence", "caption", "id", "index")
    for number, (_, row) in enumerate(csv_records(Lines(path, "strict"))):
        text = row[0].strip()
        if text and not (number == 0 and text.lower().startswith(names)):
            yield text


def hash_files(files: Iterable[Path]) -> str:
    """SHA-256 over the SHA-256 of each file, in order: the identity of a corpus."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            digest = hashlib.sha256()
            while block := stream.read(1 << 20):
                digest.update(block)
        total.update(digest.digest())
    return total.hexdigest()
