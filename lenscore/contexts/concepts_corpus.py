"""The corpus `concepts`: the sentences of the latentlens package (MIT), installed or downloaded from PyPI."""

from __future__ import annotations

import importlib.util
import logging
import zipfile
from pathlib import Path

from lenscore.user_files.package_download import Package
from storage_layouts.cache_folder import cache_folder
from storage_layouts.errors import InputError
from storage_layouts.files import write_atomic
from storage_layouts.machine_errors import writing

LATENTLENS = Package(
    "pip",
    "latentlens",
    "0.1.0",
    "latentlens-0.1.0-py3-none-any.whl",
    4970850,
    "6dd15719bb4c0f5cb48ec339a8d77aceaab27a80ddd76fc42cda2c3f8d5cbe21",
    "MIT",
    "concepts.txt, 117,125 sentences",
)
CONCEPTS_MEMBER = "latentlens/data/concepts.txt"


def installed_concepts() -> Path | None:
    """The corpus in the installed latentlens package, which is not imported; None if it is not installed."""
    spec = importlib.util.find_spec("latentlens")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / "data" / "concepts.txt").is_file():
            return path
    return None


def known_concepts() -> Path:
    """The corpus in the installed package, else its place in the user's cache, where it may be missing."""
    return installed_concepts() or cache_folder() / "corpora" / f"concepts-{LATENTLENS.sha256[:16]}.txt"


def concepts_file() -> Path:
    """The corpus as a file: that of the installed package, else of a wheel that is downloaded once.

    Raises InputError if it cannot be downloaded, or has another checksum.
    """
    file = known_concepts()
    if not file.exists():
        downloads = cache_folder() / "packages"
        if not (downloads / LATENTLENS.file).exists():
            logging.getLogger("lenscore").warning("download: %s", LATENTLENS.describe())
        try:
            with writing(downloads):
                wheel = LATENTLENS.download(downloads)
        except InputError as error:
            raise InputError(
                f"--corpus concepts: {error}; without a network give the path of a concepts.txt, or copy "
                f"{LATENTLENS.file} to {downloads}"
            ) from None
        with zipfile.ZipFile(wheel) as archive:
            write_atomic(file, archive.read(CONCEPTS_MEMBER))
    return file
