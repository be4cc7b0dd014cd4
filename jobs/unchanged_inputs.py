"""Whether the inputs of a complete run are the files that it was made from, without reading them again.

Hashing images and loading a tokenizer takes seconds, which a repeated command would spend to find that nothing is left
to do. So the cache folder keeps for each completed run the inode, size and times of all files and folders of its
inputs. If one of them differs, the command reads its inputs, as it does without a record.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lenscore.contexts.sentence_language import PACKAGE
from storage_layouts.cache_folder import cache_folder
from storage_layouts.errors import CorruptError, InputError
from storage_layouts.fields import OBJECT, check_fields
from storage_layouts.files import make_folder, read_json, write_json
from storage_layouts.runs import RunFolder

READERS = ("lenscore", "transformers", "tokenizers", "pillow")
"""Packages whose versions decide what is read from a file."""
TICK = 2 * 10**9
"""Nanoseconds; two changes within this time may leave the same time on a file."""

_Files = dict[str, list[int]]
"""By absolute path the inode, the size, and the times (ns) of the last change of the content and of the inode."""


@runtime_checkable
class RepeatableSettings(Protocol):
    """The settings of a stage whose completed runs are recognised."""

    stage: Any
    out: Any

    def recorded(self) -> dict[str, Any]:
        """The configuration, as in run.json."""

    def input_paths(self) -> Sequence[Path] | None:
        """The files and folders that are read; None if some are not on this machine, as a model of the Hub.

        A job, which extends its settings, also returns the files that a table or list among them names.
        """


def remember_inputs(run: RunFolder, job: RepeatableSettings, began: int) -> None:
    """Record the inputs of a completed run, unless one may have been changed since the command began (Unix ns)."""
    with contextlib.suppress(OSError, InputError):  # without a record, the next command reads its inputs
        paths = job.input_paths()
        if paths is None:
            return
        files = _files(_listed(paths))
        if all(changed + TICK < began for *_, changed in files.values()):
            make_folder(_record(run).parent)
            write_json(_record(run), {"versions": _versions(), "files": files})


def completed_before(settings: RepeatableSettings) -> RunFolder | None:
    """The complete run of these settings in their folder, if its inputs are known to be unchanged.

    Raises InputError and CorruptError as `RunFolder.open`.
    """
    if not (settings.out / "run.json").exists():
        return None
    run = RunFolder.open(settings.out, settings.stage)
    paths = settings.input_paths()
    if paths is None or not _record(run).exists() or run.config != settings.recorded():
        return None
    with contextlib.suppress(OSError, CorruptError):
        record = read_json(_record(run))
        check_fields(_record(run), record, {"versions": OBJECT, "files": OBJECT})
        listed = _files(_listed(paths))
        others = _files(Path(name) for name in record["files"].keys() - listed.keys())
        if record["versions"] == _versions() and listed | others == record["files"]:
            return run if run.is_complete() else None
    return None


def _listed(paths: Iterable[Path]) -> Iterator[Path]:
    """The files and folders, and all that lies in the folders; a folder that links lead to several times only once."""
    met = set()
    for path in paths:
        yield path
        for place, folders, names in os.walk(path, followlinks=True):
            about = Path(place).stat()
            if (about.st_dev, about.st_ino) in met:
                folders.clear()
                continue
            met.add((about.st_dev, about.st_ino))
            yield from (Path(place, name) for name in ("", *names))


def _files(paths: Iterable[Path]) -> _Files:
    found = {str(path.absolute()): path.stat() for path in paths}
    return {name: [one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns] for name, one in found.items()}


def _record(run: RunFolder) -> Path:
    name = hashlib.sha256(run.run_id.encode()).hexdigest()[:16]  # a run.json of somebody else may hold any text
    return cache_folder() / "completed" / f"{name}.json"


def _versions() -> dict[str, str]:
    versions = {package: metadata.version(package) for package in READERS}
    with contextlib.suppress(metadata.PackageNotFoundError):  # of --language, and optional
        versions[PACKAGE] = metadata.version(PACKAGE)
    return versions
