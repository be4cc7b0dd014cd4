"""Corpora by name, and shares of several: what `--corpus` takes besides files and folders.

    hf:DATASET[@REVISION][:CONFIG][:SPLIT][:COLUMN]   a dataset of the Hugging Face Hub
    vg, vg:FILE                                       region descriptions of Visual Genome
    concepts                                          the sentences of the latentlens package
    phrases                                           short phrases that ship with lenscore

each also with =SHARE behind it, as files and folders. A file or folder of that name goes first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lenscore.contexts.concepts_corpus import CONCEPTS_MEMBER, LATENTLENS, concepts_file, known_concepts
from lenscore.contexts.corpus_file import CorpusFile
from lenscore.contexts.hub_dataset import COMMIT, DatasetName, dataset_files, require_datasets
from lenscore.contexts.phrase_corpus import PHRASES
from lenscore.contexts.visual_genome import cached_regions, region_phrases
from lenscore.user_files.finding import is_there
from storage_layouts.errors import InputError
from storage_layouts.fields import OBJECT, TEXT, Kind, check_fields, list_of, object_of, optional
from storage_layouts.runs import RunFolder

HUB, VISUAL_GENOME, CONCEPTS, OWN_PHRASES = "hf:", "vg", "concepts", "phrases"
NAMES = (VISUAL_GENOME, CONCEPTS, OWN_PHRASES)
_COMMIT = Kind("a commit of 40 hex digits", lambda value: isinstance(value, str) and bool(COMMIT.fullmatch(value)))
_NAMED = Kind("a list of objects", list_of(OBJECT).fits, optional=True)
_SHARE = re.compile(r"(?P<source>.+)=(?P<share>[\d.]+(?:e-\d+)?)")


def split_share(corpus: str | os.PathLike[str]) -> tuple[str, float]:
    """A corpus of the command line without its share, and the share; 1 if it has none.

    Raises InputError for a share that is no fraction.
    """
    text = os.fspath(corpus)
    parts = None if is_there(text) else _SHARE.fullmatch(text)
    if parts is None:
        return text, 1.0
    try:
        share = float(parts["share"])
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise InputError(f"--corpus {text}: the share is {parts['share']}, expected above 0 and at most 1, as in =0.5")
    return parts["source"], share


def path_of(source: str) -> Path | None:
    """The path that a corpus without its share names; None for a name."""
    named = source.startswith((HUB, f"{VISUAL_GENOME}:")) or source in NAMES
    return None if named and not is_there(source) else Path(source)


def absolute_corpus(corpus: str | os.PathLike[str]) -> str:
    """A corpus of the command line with absolute paths, as in run.json."""
    source, share = split_share(corpus)
    path = path_of(source)
    if path is not None:
        source = _absolute(path)
    elif source.startswith(f"{VISUAL_GENOME}:"):
        source = f"{VISUAL_GENOME}:{_absolute(_file_of(source))}"
    return source if share == 1 else f"{source}={share}"


def paths_of(corpora: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files and folders of the user among corpora of the command line."""
    sources = [split_share(corpus)[0] for corpus in corpora]
    named = [_file_of(source) for source in sources if source.startswith(f"{VISUAL_GENOME}:") and not path_of(source)]
    return [path for source in sources if (path := path_of(source)) is not None] + named


def read_paths(corpora: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Those of `paths_of`, and the files behind the names vg and concepts; they may be missing."""
    sources = [split_share(corpus)[0] for corpus in corpora]
    names = {source for source in sources if path_of(source) is None}
    found = {VISUAL_GENOME: cached_regions, CONCEPTS: known_concepts}
    return [*paths_of(corpora), *(place() for name, place in found.items() if name in names)]


def require_name(source: str) -> None:
    """Raises InputError for a name that is known to be unusable without looking anything up."""
    if source.startswith(HUB):
        DatasetName.parse(source.removeprefix(HUB))
        require_datasets()


def named_files(source: str, commits: Mapping[str, str]) -> list[CorpusFile]:
    """The files of a named corpus.

    `commits` are those of an earlier run by the names of its datasets; they are taken instead of what a branch is now.
    Raises InputError for a corpus that is not on this machine and cannot be downloaded.
    """
    if source.startswith(HUB):
        asked = DatasetName.parse(source.removeprefix(HUB))
        found = dataset_files(asked, commits.get(source, ""))
        about = {"revision": found.commit, "split": found.split, "licence": found.licence or "not stated"}
        record = {"corpus": source, **about}
        return [
            CorpusFile(
                found.origin(asked.name, path), column=asked.column, checksum=checksum, bytes=size, record=record
            )
            for path, checksum, size in found.files
        ]
    if source == CONCEPTS:
        record = {"corpus": source, "licence": LATENTLENS.licence, "package": LATENTLENS.name}
        return [CorpusFile(CONCEPTS_MEMBER, concepts_file(), record=record)]
    if source == OWN_PHRASES:
        record = {"corpus": source, "licence": "Apache-2.0", "package": "lenscore"}
        return [CorpusFile("lenscore/contexts/data/phrases.txt", PHRASES, record=record)]
    return [region_phrases(_file_of(source) if source != VISUAL_GENOME else None)]


def recorded_commits(run: RunFolder | None) -> dict[str, str]:
    """The commits of the datasets in the inputs of a run, by their names; {} for None, before there is a run.

    Those of the stores that it continues are not among them. Raises CorruptError for another content.
    """
    named = named_of(run, run.inputs.get("corpus")) if run else []
    return {one["corpus"]: one["revision"] for one in named if one.get("revision")}


def named_of(run: RunFolder, described: Any) -> list[dict[str, Any]]:
    """What the inputs of a run say of the corpora by name of its corpus, or of a store that it continues.

    `described` is that input, None if there is none. Raises CorruptError for another content.
    """
    kind = optional(object_of({"named": _NAMED}, "an object, whose named is a list of objects"))
    check_fields(run.path / "run.json", {"corpus": described}, {"corpus": kind}, within="inputs")
    named: list[dict[str, Any]] = (described or {}).get("named", [])
    for one in named:
        check_fields(run.path / "run.json", one, {"corpus": TEXT, "revision": optional(_COMMIT)})
    return named


def with_share(files: Sequence[CorpusFile], share: float) -> list[CorpusFile]:
    """The files, each with this share."""
    return [replace(file, share=share) for file in files]


def _absolute(path: Path) -> str:
    """The path with its folder resolved; a link to a file stays, because its own name says the format."""
    return str(path.parent.resolve() / path.name if is_there(path) and path.is_file() else path.resolve())


def _file_of(source: str) -> Path:
    return Path(source.removeprefix(f"{VISUAL_GENOME}:"))
