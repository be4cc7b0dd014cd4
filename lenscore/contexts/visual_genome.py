"""The corpus `vg`, that of the LatentLens paper: region descriptions of Visual Genome (arXiv 1602.07332, CC BY 4.0).

Its file holds a list of images, each with its regions, each with a phrase. The distinct phrases are written once into
the user's cache, one a line in the order of their first occurrence, and read as any text file.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lenscore.contexts.corpus_file import CorpusFile
from lenscore.user_files.finding import is_there, require_regular, sha256_of
from lenscore.user_files.json_values import json_values
from lenscore.user_files.rows import texts_of
from storage_layouts.cache_folder import cache_folder
from storage_layouts.errors import InputError, MissingFileError, first_line
from storage_layouts.files import atomic_file, make_folder, read_json, write_json
from storage_layouts.machine_errors import writing

FILE = "region_descriptions.json"
ADDRESS = f"https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset/{FILE}.zip"
LICENCE = "CC BY 4.0"
MOST_BYTES = 1 << 33
"""A file in a zip may unpack to so many bytes: more than ten times the published one."""
KNOWN_FILES = {
    "9e54cd76082f7ce5168a1779fc8c3d0629720492ec0fa12f2d8339c3e0dc9734": "region_descriptions_v1.json.zip",
    "038382219029c9cb0d7b0308b1d45f7537cf5a47b98f493f6d0e30c8947fb15d": "region_descriptions.json.zip",
}
"""SHA-256 of published files, as others recorded them: version 1 in dataset_infos.json of huggingface/datasets
(99,460,401 bytes), the later one in a public table of checksums whose other lines agree with that file."""


def region_phrases(source: Path | None = None) -> CorpusFile:
    """The phrases of a file of region descriptions (json, or the zip that holds it), as a text file.

    Without `source` it is looked for in the user's cache. Raises InputError if there is none, or if it has another
    structure.
    """
    found = source or _in_the_cache()
    require_regular(found, f"--corpus vg:{found}")
    if not is_there(found):
        raise MissingFileError(f"--corpus vg:{found}: no such file")
    sha256 = sha256_of(found)
    text = _folder() / f"vg-{sha256[:32]}.txt"
    facts = text.with_suffix(".json")
    if not (text.exists() and facts.exists()):
        write_json(facts, _write_phrases(found, text))
    known = {"published_as": KNOWN_FILES[sha256]} if sha256 in KNOWN_FILES else {}
    record = {"corpus": "vg", "licence": LICENCE, "sha256": sha256, **known, **read_json(facts)}
    return CorpusFile(f"visual genome {sha256}", text, record=record)


def _folder() -> Path:
    return cache_folder() / "corpora"


def cached_regions() -> Path:
    """The file of region descriptions in the user's cache, or where it is expected."""
    places = [_folder() / f"{FILE}.zip", _folder() / FILE]
    return next((place for place in places if place.exists()), places[0])


def _in_the_cache() -> Path:
    found = cached_regions()
    if not found.exists():
        raise MissingFileError(
            f"--corpus vg: the region descriptions of Visual Genome are not on this machine; download {ADDRESS} "
            f"({LICENCE}, about 130 MB) to {found}, or give its path: --corpus vg:PATH"
        )
    return found


def _write_phrases(source: Path, text: Path) -> dict[str, int]:
    """Write the distinct phrases; returns how many there are of what."""
    make_folder(_folder())
    phrases: dict[str, None] = {}
    regions = without = 0
    with tempfile.TemporaryDirectory(dir=_folder(), prefix="vg-") as aside:
        for phrase in _phrases(_unpacked(source, Path(aside)), source):
            regions += 1
            if words := " ".join(phrase.split()):
                phrases[words] = None
            else:
                without += 1
    if not phrases:
        raise InputError(f"--corpus vg:{source}: holds no phrase; expected the region descriptions of Visual Genome")
    with writing(text), atomic_file(text) as file:
        for phrase in phrases:
            file.write(f"{phrase}\n".encode())
    return {"regions": regions, "regions_without_a_phrase": without, "distinct_phrases": len(phrases)}


def _unpacked(source: Path, aside: Path) -> Path:
    """The JSON file; of a zip, which begins with PK, what it holds is unpacked."""
    with source.open("rb") as file:
        if file.read(2) != b"PK":
            return source
    try:
        with zipfile.ZipFile(source) as archive:
            members = [one for one in archive.infolist() if one.filename.endswith(".json") and "/" not in one.filename]
            if len(members) != 1:
                raise InputError(f"--corpus vg:{source}: a zip with {len(members)} JSON files, expected {FILE} alone")
            if members[0].file_size > MOST_BYTES:
                raise InputError(
                    f"--corpus vg:{source}: unpacks to {members[0].file_size:,} bytes, expected at most {MOST_BYTES:,}"
                )
            with writing(aside), archive.open(members[0]) as packed, (aside / FILE).open("wb") as plain:
                shutil.copyfileobj(packed, plain)  # no more bytes than the member declares
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise InputError(f"--corpus vg:{source}: a broken zip ({first_line(error)}); download it again") from None
    except (RuntimeError, NotImplementedError) as error:  # a password, or an unusual method
        raise InputError(
            f"--corpus vg:{source}: a zip that cannot be unpacked ({first_line(error)}); give the JSON file in it"
        ) from None
    return aside / FILE


def _phrases(file: Path, source: Path) -> Iterator[str]:
    """The phrases of a JSON file, which may be unpacked from `source`, the file that errors name."""
    try:
        for key, number, image in json_values(file):
            regions = image.get("regions") if isinstance(image, dict) else None
            if key is not None or not isinstance(regions, list):
                raise _unexpected(source, number, "an image with a list of regions")
            for region in regions:
                phrase: Any = region.get("phrase") if isinstance(region, dict) else None
                if not isinstance(phrase, str):
                    raise _unexpected(source, number, "regions with a phrase each")
                yield from texts_of(phrase, f"--corpus vg:{source}, entry {number}") or [""]
    except InputError as error:
        if file == source:
            raise
        raise InputError(str(error).replace(str(file), f"{source} ({FILE})")) from None


def _unexpected(source: Path, number: int, expected: str) -> InputError:
    return InputError(f"--corpus vg:{source}, entry {number}: expected {expected}, as in Visual Genome")
