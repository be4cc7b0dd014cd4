"""Stores, and cache folders of the latentlens library, on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lenscore.models.source import hub_repository, offline_if_unreachable
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import InputError, MissingFileError, first_line
from storage_layouts.latentlens_files import CACHE_FILE, METADATA_FILE, listed_layers

STORE_WITHOUT_LAYERS = ["run.json", "plan.json", "model.json", "zarr.json", "*/zarr.json", "rows/*", "receipts/*"]
"""Files of a store that are downloaded before its layers, besides its sentences. The layers of a store share their
files, unless it has separate layers: then only those of the wanted ones are downloaded."""

_MISSING = (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError)

NOT_UPLOADED = ["attempts/*", "heartbeats/*", "claims/*", "failures/*", "submissions/*", "*.partial"]
"""Files of a store that only its cluster run needs."""


def download_layers(
    repo_id: str,
    layers: Sequence[int] | None,
    cache_dir: str | Path | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    store_instead: tuple[str, str] | None = None,
) -> tuple[Path, list[int] | None]:
    """Download a repository with the embeddings of some layers (None: all).

    Returns the folder and its layers to read (None: all that exist). Raises MissingFileError if there is no such
    repository or layer, InputError if it cannot be downloaded, or is no store and there is `store_instead`: how the
    message names it, and what it says is to be done.
    """
    offline_if_unreachable()

    def download(patterns: list[str], revision: str | None) -> Path:
        try:
            return Path(
                huggingface_hub.snapshot_download(
                    repo_id, allow_patterns=patterns, cache_dir=cache_dir, revision=revision, token=token
                )
            )
        except (OSError, ValueError) as error:  # what huggingface_hub raises for repositories, networks and names
            kind = MissingFileError if isinstance(error, _MISSING) else InputError
            why = first_line(error)
            if isinstance(error, GatedRepoError):
                why = "its terms must be accepted there first; then: hf auth login"
            elif isinstance(error, RevisionNotFoundError):
                why = f"no revision {revision!r}; expected a branch, a tag or a commit"
            elif isinstance(error, RepositoryNotFoundError):
                why = "no such repository; for a private one: hf auth login"
            raise kind(f"{repo_id}: cannot be downloaded from the Hub ({why})") from None

    folder = download([METADATA_FILE, *STORE_WITHOUT_LAYERS, "sentences.parquet"], revision)
    is_store = (folder / "run.json").exists()
    if not is_store and store_instead is not None:
        where, instead = store_instead
        if not (folder / METADATA_FILE).exists():
            raise InputError(f"{where}: no store, for it has no run.json; expected a store that lens extract made")
        raise InputError(f"{where}: a cache folder of the latentlens library; {instead}")
    layout = EmbeddingStore.open(folder, layers=[]).layout if is_store else None
    available = list(layout.layers) if layout else listed_layers(folder)
    chosen = available if layers is None else list(layers)
    for layer in chosen:
        if available and layer not in available:
            raise MissingFileError(
                f"{repo_id}: has no layer {layer}; expected some of {', '.join(map(str, available))}"
            )
    patterns = layout.patterns(chosen) if layout else [f"layer_{layer}/{CACHE_FILE}" for layer in chosen]
    download(patterns or [f"layer_*/{CACHE_FILE}"], folder.name)  # its commit: a branch may have moved
    if not is_store and not any(folder.glob(f"layer_*/{CACHE_FILE}")):
        raise MissingFileError(f"{repo_id}: has neither a store (run.json) nor a cache of latentlens ({CACHE_FILE})")
    return folder, chosen or None


def store_folder(
    store: Path,
    layers: Sequence[int] | None = None,
    began_with: object = None,
    model: str = "MODEL",
    flag: str = "--store",
) -> Path:
    """The folder of a store; one that is named hf:REPO or hf:REPO@REVISION is downloaded with some layers (None: all).

    The folder's path names repository and commit. A run that began with such a folder stays at its commit, unless a
    revision is named. Raises InputError if it cannot be downloaded, and for a cache of latentlens, before its layers
    are downloaded, with how to convert it for the model (not for "").
    """
    if (named := hub_repository(store, flag)) is None:
        return store
    repository, revision = named
    snapshots, commit = Path(str(began_with)).parts[-3:-1], Path(str(began_with)).name
    if revision is None and snapshots == (f"models--{repository.replace('/', '--')}", "snapshots"):
        revision = commit
    convert = f"make a store of it: lens convert {store} STORE.zarr --model {model}" if model else ""
    instead = f"{flag} {store}", convert or "expected a store that lens extract made"
    return download_layers(repository, layers, revision=revision, store_instead=instead)[0]


def upload_folder(
    folder: Path, repo_id: str, private: bool | None, token: str | bool | None, commit_message: str
) -> str:
    """Upload a folder into a model repository, see `ContextualIndex.push_to_hub`."""
    api = huggingface_hub.HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=commit_message, ignore_patterns=NOT_UPLOADED
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{repo_id}: the upload to the Hub failed ({first_line(error)})") from None
    return str(commit.commit_url)
