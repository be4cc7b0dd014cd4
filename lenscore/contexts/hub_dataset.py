"""Datasets of the Hugging Face Hub as files at one commit.

The datasets library says which files a configuration and a split have, the Hub what their checksums are. A file is
downloaded when it is first read, into the cache of huggingface_hub, and read by the readers of `user_files`: so a
`limit` fetches no more than it needs, a second pass fetches nothing, and a killed command begins where it was.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

from lenscore.models.source import offline_if_unreachable
from lenscore.user_files.finding import git_blob_id_of, sha256_of
from lenscore.user_files.rows import FORMATS, SEPARATORS, format_of
from storage_layouts.cache_folder import cache_folder
from storage_layouts.errors import CorruptError, InputError, first_line
from storage_layouts.fields import TEXT, Kind, check_fields, list_of
from storage_layouts.files import read_json, write_json

COMMIT = re.compile(r"[0-9a-f]{40}")
_URL = re.compile(r"hf://datasets/(?P<name>[^@]+)@(?P<commit>[0-9a-f]{40})/(?P<path>.+)")
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_NO_READING = ("name", "version", "data_dir", "data_files", "description", "delimiter", "column_names")
"""Fields of a configuration that do not say how files are read, and other names of sep and names."""
_PATHS_AT_ONCE = 500
_FILE = Kind(
    "a path, a checksum and a size", lambda value: isinstance(value, list) and [*map(type, value)] == [str, str, int]
)


@dataclass(frozen=True)
class DatasetName:
    """A dataset as `hf:NAME[@REVISION][:CONFIG][:SPLIT][:COLUMN]` names it; "" for what is not said."""

    name: str
    revision: str = ""
    config: str = ""
    split: str = ""
    column: str = ""

    @classmethod
    def parse(cls, text: str) -> DatasetName:
        """Read the text behind "hf:". Raises InputError for another form."""
        whole, *rest = text.split(":")
        name, _, revision = whole.partition("@")
        if not _NAME.fullmatch(name) or len(rest) > 3 or whole.endswith("@"):
            raise InputError(
                f"--corpus hf:{text}: expected hf:DATASET[@REVISION][:CONFIG][:SPLIT][:COLUMN], "
                "as in hf:allenai/c4:en:train:text"
            )
        return cls(name, revision, *rest)


@dataclass(frozen=True)
class DatasetFiles:
    """The files of one split of a dataset at a commit.

    Attributes:
        commit: of the dataset, 40 hex digits.
        split: its name.
        licence: as the dataset's card says it; "" if it does not.
        files: in order the path of each in the repository, its SHA-256 (or git's blob id, if it is kept in git), and
            its bytes.

    """

    commit: str
    split: str
    licence: str
    files: list[tuple[str, str, int]]

    def origin(self, name: str, path: str) -> str:
        """The address of a file."""
        return f"hf://datasets/{name}@{self.commit}/{path}"


def require_datasets() -> None:
    """Raises InputError if the datasets library is not installed."""
    if importlib.util.find_spec("datasets") is None:
        raise InputError("--corpus hf: needs the package datasets; pip install 'lenscore[datasets]'")


def dataset_files(asked: DatasetName, commit: str = "") -> DatasetFiles:
    """The files of a dataset, at `commit` if it is given, else at its revision (by default its main branch).

    What was found for a commit is kept in the user's cache, and needs no network again. Raises InputError for an
    unknown dataset, revision, configuration or split, for files of formats that are not read, and if the Hub cannot be
    reached.
    """
    where = f"--corpus hf:{asked.name}"
    commit = commit or (asked.revision if COMMIT.fullmatch(asked.revision) else _commit_of(asked, where))
    content = repr((asked.name, commit, asked.config, asked.split, "with blob ids"))
    key = hashlib.sha256(content.encode()).hexdigest()[:32]
    record = cache_folder() / "datasets" / f"{key}.json"
    if record.exists():
        with contextlib.suppress(CorruptError):
            return _read_record(record)
    found = _listed(asked, commit, where)
    write_json(record, asdict(found))
    return found


def downloaded(origin: str, checksum: str) -> Path:
    """The file of an address of `DatasetFiles.origin`, downloaded unless it is in the cache of huggingface_hub.

    Its content is compared with `checksum` once in a process, also if it was in the cache: a command may have been
    killed between download and comparison. Raises InputError if it cannot be downloaded or is another one.
    """
    import huggingface_hub

    parts = _URL.fullmatch(origin)
    if parts is None:
        raise ValueError(f"{origin}: no address of a file of a dataset at a commit")
    where: dict[str, Any] = {"repo_type": "dataset", "revision": parts["commit"]}
    known = huggingface_hub.try_to_load_from_cache(parts["name"], parts["path"], **where)
    if not isinstance(known, str):
        offline_if_unreachable()
        try:
            known = huggingface_hub.hf_hub_download(parts["name"], parts["path"], **where)
        except (OSError, ValueError) as error:  # what huggingface_hub raises for repositories, networks and disks
            raise InputError(
                f"--corpus {origin}: cannot be downloaded ({first_line(error)}); without a network, fetch it before "
                f"with the same HF_HOME: hf download --repo-type dataset --revision {parts['commit']} {parts['name']} "
                f"{parts['path']}"
            ) from None
    _require_content(Path(known), checksum, origin)
    return Path(known)


@functools.cache
def _require_content(path: Path, checksum: str, origin: str) -> None:
    """Raises InputError, after the file was removed, unless it has this SHA-256 or blob id."""
    kind, found = ("sha256", sha256_of(path)) if len(checksum) == 64 else ("git blob id", git_blob_id_of(path))
    if found != checksum:
        for place in (path.resolve(), path):
            place.unlink(missing_ok=True)
        raise InputError(
            f"--corpus {origin}: downloaded with {kind} {found[:12]}..., but the Hub lists {checksum[:12]}...; "
            "it was removed, repeat the command"
        )


def _commit_of(asked: DatasetName, where: str) -> str:
    """The commit of a branch or tag now."""
    import huggingface_hub
    from huggingface_hub import errors

    offline_if_unreachable()
    try:
        found = huggingface_hub.HfApi().dataset_info(asked.name, revision=asked.revision or None).sha
    except errors.GatedRepoError:
        raise InputError(f"{where}: its terms must be accepted on the Hub first; then: hf auth login") from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{where}: no revision {asked.revision!r}; expected a branch, a tag or a commit") from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"{where}: no such dataset on the Hub (for a private one: hf auth login)") from None
    except errors.OfflineModeIsEnabled:
        raise InputError(
            f"{where}: the Hub is not reached; without it expected a commit whose files are on this machine, as in "
            f"hf:{asked.name}@COMMIT"
        ) from None
    except (OSError, ValueError) as error:  # whatever else huggingface_hub raises
        raise InputError(f"{where}: cannot be looked up on the Hub ({first_line(error)})") from None
    if not found:
        raise InputError(f"{where}: the Hub names no commit of it; expected a dataset with a revision")
    return found


def _listed(asked: DatasetName, commit: str, where: str) -> DatasetFiles:
    require_datasets()
    import datasets

    offline_if_unreachable()
    try:
        builder = datasets.load_dataset_builder(asked.name, name=asked.config or None, revision=commit)
        splits = builder.config.data_files
    except Exception as error:  # a card of somebody else may hold any YAML, which the library does not check
        said = " ".join(str(error).splitlines()[:2])  # the second line says which configurations there are
        raise InputError(f"{where}: the datasets library cannot open it ({said or type(error).__name__})") from None
    if not splits:
        raise InputError(f"{where}: the datasets library finds no data files in it")
    split = asked.split or ("train" if "train" in splits or len(splits) > 1 else next(iter(splits)))
    if split not in splits:
        expected = " or ".join(map(str, splits))
        raise InputError(f"{where}: no split {split!r}; expected {expected}, as in NAME:CONFIG:SPLIT")
    paths = [_path_in_repository(str(file), asked.name, commit, where) for file in splits[split]]
    _require_plain_reading(builder.config, {format_of(path) for path in paths}, where)
    return DatasetFiles(
        commit, split, _licence(asked.name, commit, where), _described(asked.name, commit, paths, where)
    )


def _require_plain_reading(config: Any, kinds: set[str | None], where: str) -> None:
    """Raises InputError if a configuration says how files are read, as in `sep: "|"`, because lenscore does not do it.

    `kinds` are the formats of its files; the datasets library sets the separator of a .tsv itself.
    """
    usual = type(config)()
    for one in fields(config):
        found = getattr(config, one.name)
        is_said = one.name not in _NO_READING and found != getattr(usual, one.name)
        if one.name == "sep":
            is_said = found not in {SEPARATORS.get(kind or "") for kind in kinds}
        if one.name == "encoding" and str(found).lower() in ("utf-8", "utf8"):
            is_said = False
        if is_said:
            raise InputError(
                f"{where}: its configuration reads files with {one.name} = {str(found)[:50]!r}, as lenscore "
                "does not; download the files, save them as plain tables or texts in UTF-8, and give their folder"
            )


def _licence(name: str, commit: str, where: str) -> str:
    """What the dataset's card says; "" if there is no card, or no text or texts in it."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        card = huggingface_hub.hf_hub_download(name, "README.md", repo_type="dataset", revision=commit)
        said = (huggingface_hub.metadata_load(card) or {}).get("license")
    except errors.RemoteEntryNotFoundError:
        return ""
    except Exception as error:  # networks and disks; and any YAML
        raise InputError(f"{where}: its card (README.md) cannot be read ({first_line(error)})") from None
    return ", ".join(one for one in (said if isinstance(said, list) else [said]) if isinstance(one, str))


def _path_in_repository(file: str, name: str, commit: str, where: str) -> str:
    parts = _URL.fullmatch(file)
    if parts is None or (parts["name"], parts["commit"]) != (name, commit):
        raise InputError(f"{where}: its data lie elsewhere ({file[:100]}); expected files of its own repository")
    if format_of(parts["path"]) is None:
        raise InputError(f"{where}: cannot read {parts['path']}; expected {', '.join(FORMATS)}, also as .gz or .zst")
    return parts["path"]


def _described(name: str, commit: str, paths: Sequence[str], where: str) -> list[tuple[str, str, int]]:
    """Path, SHA-256 (or blob id, if the Hub keeps it in git) and bytes of files."""
    import huggingface_hub

    api = huggingface_hub.HfApi()
    found: dict[str, tuple[str, str, int]] = {}
    rest = iter(paths)
    try:
        while some := list(islice(rest, _PATHS_AT_ONCE)):
            for entry in api.get_paths_info(name, some, revision=commit, repo_type="dataset"):
                if isinstance(entry, huggingface_hub.RepoFile):
                    found[entry.path] = (entry.path, entry.lfs.sha256 if entry.lfs else entry.blob_id, entry.size)
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: its files cannot be listed ({first_line(error)})") from None
    if missing := set(paths).difference(found):
        raise InputError(f"{where}: the Hub does not list {min(missing)} at {commit}")
    return [found[path] for path in paths]


def _read_record(file: Path) -> DatasetFiles:
    content = read_json(file)
    kinds = {"commit": TEXT, "split": TEXT, "licence": TEXT, "files": list_of(_FILE)}
    check_fields(file, content, kinds)
    files = [(path, checksum, size) for path, checksum, size in content["files"]]
    return DatasetFiles(content["commit"], content["split"], content["licence"], files)
