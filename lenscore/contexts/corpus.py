"""Text corpora, streamed sentence by sentence: files in common formats, and corpora by name.

The formats are those of `lenscore.user_files.rows`, the names those of `named_corpora`.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lenscore.contexts.choice_by_hash import hashed_share
from lenscore.contexts.concepts_corpus import concepts_file
from lenscore.contexts.corpus_file import CorpusFile
from lenscore.contexts.named_corpora import NAMES, named_files, path_of, paths_of, require_name, split_share, with_share
from lenscore.contexts.sentence_language import LanguageFilter, language_package
from lenscore.user_files.finding import files_in, is_there, require_regular
from lenscore.user_files.notes import Notes
from lenscore.user_files.rows import FORMATS, Column, format_of, place, read_rows, texts_of
from lenscore.user_files.text_lines import EncodingErrors, Lines, csv_records
from storage_layouts.counts import counted
from storage_layouts.errors import InputError, MissingFileError, nearest

__all__ = [
    "EncodingErrors",
    "TextChoice",
    "corpus_files",
    "corpus_identity",
    "hash_files",
    "load_corpus",
    "read_corpus",
    "require_corpora",
]

TEXT_COLUMNS = ("text", "sentence", "caption", "phrase")
"""Names of the text column, in order of preference, if no `column` is given."""


def corpus_files(
    sources: Sequence[str | os.PathLike[str]], notes: Notes | None = None, commits: Mapping[str, str] | None = None
) -> list[CorpusFile]:
    """The given files, the corpus files of the given folders (recursive, sorted), and those of corpora by name.

    Names and shares are those of `named_corpora`. Files of the Hub are downloaded when they are read; `commits` are
    those of an earlier run by the names of its datasets, see `recorded_commits`. Links to folders are followed; `notes`
    counts skipped files. Raises InputError for a path that does not exist or is not a regular file, for a folder
    without corpus files, and for a name that cannot be resolved.
    """
    notes = notes or Notes()
    files: list[CorpusFile] = []
    for text in sources:
        source, share = split_share(text)
        path = path_of(source)
        found = named_files(source, commits or {}) if path is None else _files_of(path, notes)
        files += with_share(found, share)
    if not files:
        raise InputError("--corpus: no file was given")
    return files


def require_corpora(sources: Sequence[str | os.PathLike[str]]) -> None:
    """Raises InputError for what is known to be wrong without a network, a library or reading a file."""
    for text in sources:
        source, _ = split_share(text)
        if path_of(source) is None:
            require_name(source)
    if (paths := paths_of(sources)) or not sources:
        corpus_files(paths)


def _files_of(source: Path, notes: Notes) -> list[CorpusFile]:
    if not is_there(source):
        raise MissingFileError(f"--corpus {source}: no such file or folder{nearest(str(source), NAMES)}")
    if source.is_dir():
        found = files_in(source, lambda name: format_of(name) is not None, notes)
        if not found:
            left_out = "; ".join(notes.lines()) or "it is empty"
            raise InputError(
                f"--corpus {source}: no corpus file in this folder ({left_out}); expected {', '.join(FORMATS)}"
            )
        return [CorpusFile.of(path) for path in found]
    require_regular(source, f"--corpus {source}")
    return [CorpusFile.of(source)]


@dataclass(frozen=True)
class TextChoice:
    """What is read of a corpus.

    Attributes:
        column: text column of tables and JSON objects; None for the first of `TEXT_COLUMNS` that exists.
        encoding_errors: what to do with bytes that are not UTF-8.
        seed: decides which sentences are in the share of a file.
        language: leave out sentences in another language than this one; "" for none.

    """

    column: str | None = None
    encoding_errors: EncodingErrors = "strict"
    seed: int = 0
    language: str = ""

    @cached_property
    def spoken(self) -> LanguageFilter | None:
        """The filter of the language."""
        return LanguageFilter(self.language) if self.language else None


def read_corpus(
    files: Iterable[CorpusFile | Path], choice: TextChoice | None = None, notes: Notes | None = None
) -> Generator[str, None, None]:
    """Stream the non-empty sentences of the files, stripped.

    A list of texts gives one sentence each, and texts may also stand without a column, see `read_rows`. Of a file with
    a share, those sentences are left out whose hash of seed and text is above it. `notes` counts what `choice` and
    shares leave out, and rows and files without a text; where the reader stops before the end, once it closes the
    generator. Raises InputError, with file and line, for invalid UTF-8
    (unless it is to be replaced), for a truncated or malformed file, for a missing column, and at the end if no
    sentence was found.
    """
    notes, choice = notes or Notes(), choice or TextChoice()
    given = [CorpusFile.of(file) for file in files]
    has_sentences = False
    for file in given:
        counts = FileCounts()
        try:
            yield from read_file(file, choice, counts)
        finally:  # also if the reader stops within the file, as at a limit
            counts.note(file, notes)
        has_sentences = has_sentences or counts.used > 0
    if given and not has_sentences:
        raise no_sentence(given, choice)


@dataclass
class FileCounts:
    """Counts of what was read of a corpus file, or of a part of it.

    Attributes:
        sentences: all of its sentences.
        empty_rows: rows without a text.
        beyond_share: sentences that its share leaves out.
        other_languages: sentences that the language filter leaves out, by their language.

    """

    sentences: int = 0
    empty_rows: int = 0
    beyond_share: int = 0
    other_languages: dict[str, int] = field(default_factory=dict)

    @property
    def used(self) -> int:
        """The sentences that are left."""
        return self.sentences - self.beyond_share - sum(self.other_languages.values())

    def add(self, other: FileCounts) -> None:
        """Count what another part of the file has."""
        self.sentences += other.sentences
        self.empty_rows += other.empty_rows
        self.beyond_share += other.beyond_share
        self.other_languages = dict(Counter(self.other_languages) + Counter(other.other_languages))

    def note(self, file: CorpusFile, notes: Notes) -> None:
        """Count in `notes` what was left out of a file."""
        if self.empty_rows:
            notes.add("rows without a text, left out", file.name, self.empty_rows)
        if self.beyond_share:
            notes.add("sentences left out by the share of their corpus", file.name, self.beyond_share)
        for language, count in sorted(self.other_languages.items()):
            notes.add("sentences in another language, left out", language, count)
        if not self.sentences:
            notes.add("files without a text", file.name)


def read_file(
    file: CorpusFile, choice: TextChoice, counts: FileCounts, part: tuple[int, int] | None = None
) -> Iterator[str]:
    """The sentences of one file, or of a part of it (see `read_rows`), as `read_corpus` gives them; `counts` them."""
    path = file.local()
    wanted = Column("--column", file.column or choice.column or "", TEXT_COLUMNS)
    is_table = format_of(path.name) not in (None, ".txt")
    takes_all = file.share == 1 and not choice.language
    for number, (value,) in read_rows(path, [wanted], choice.encoding_errors, bare_texts=True, part=part):
        if type(value) is str and value.isascii():  # a faster path for most texts, with the same result
            texts = [stripped] if (stripped := value.strip()) else []
        else:
            texts = texts_of(value, place(path, number), choice.encoding_errors)
        counts.empty_rows += is_table and not texts
        for text in texts:
            counts.sentences += 1
            if takes_all or _is_used(text, file, choice, counts):
                yield text


def _is_used(text: str, file: CorpusFile, choice: TextChoice, counts: FileCounts) -> bool:
    """Whether a sentence is in the share of its file and in the language; counts it if not."""
    if file.share < 1 and hashed_share(choice.seed, text, b"corpus share") >= file.share:
        counts.beyond_share += 1
        return False
    if choice.spoken and (language := choice.spoken.language_of(text)) != choice.language:
        counts.other_languages[language] = counts.other_languages.get(language, 0) + 1
        return False
    return True


def corpus_changed() -> InputError:
    """The error about a corpus that is another one than when its reading began."""
    return InputError("--corpus: changed while it was being read; repeat the command")


def no_sentence(files: Sequence[CorpusFile], choice: TextChoice) -> InputError:
    """The error about a corpus without a sentence."""
    more = f" nor the {counted(len(files) - 1, 'file')} after it" if len(files) > 1 else ""
    where = files[0].path or files[0].origin
    if choice.language or any(file.share < 1 for file in files):
        more += " (or its share, or --language, left none)"
    return InputError(f"--corpus {where}: holds no sentence{more}; expected lines or rows with text")


def load_corpus(source: str | Path | Sequence[str]) -> list[str]:
    """A corpus as a list: a list of strings is returned unchanged, a path is read.

    As in the latentlens library, a .csv gives its first column, without a header (a first line that starts with text,
    sentence, caption, id or index), and "concepts.txt" is the corpus of the latentlens package. Other files, and
    corpora by name such as "phrases" or "hf:DATASET", are read with `read_corpus`.
    """
    if not isinstance(source, (str, Path)):
        return source if isinstance(source, list) else list(source)
    path = Path(source)
    if not path.is_absolute() and not is_there(path) and path.name == "concepts.txt":
        path = concepts_file()
    if path.name.lower().endswith(".csv") and is_there(path) and path.is_file():
        texts = list(_first_column(path))
        if not texts:
            raise InputError(f"corpus {path}: holds no sentence in its first column")
        return texts
    return list(read_corpus(corpus_files([path if is_there(path) else source])))


def _first_column(path: Path) -> Iterator[str]:
    names = ("text", "sentence", "caption", "id", "index")
    for number, (_, row) in enumerate(csv_records(Lines(path, "strict"))):
        text = row[0].strip()
        if text and not (number == 0 and text.lower().startswith(names)):
            yield text


def hash_files(files: Iterable[CorpusFile]) -> str:
    """SHA-256 over the digest of each file, in order: the identity of a corpus. Files are read at the same time."""
    with ThreadPoolExecutor() as pool:
        return hashlib.sha256(b"".join(map(bytes.fromhex, pool.map(CorpusFile.digest, files)))).hexdigest()


def corpus_identity(files: Sequence[CorpusFile], language: str = "") -> dict[str, Any]:
    """The fields of a corpus among the inputs in run.json.

    Of corpora by name also which they are, with the commit of a dataset, the checksum of what was downloaded and the
    licence; with a language filter, the package that decides.
    """
    records: list[Mapping[str, Any]] = []
    for file in files:
        if file.record is not None and file.record not in records:
            records.append(file.record)
    return {
        "files": [file.origin for file in files],
        "sha256": hash_files(files),
        **({"named": [dict(record) for record in records]} if records else {}),
        **({"language_package": language_package()} if language else {}),
    }
