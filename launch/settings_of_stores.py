"""The settings that `lens extract --add STORE` and `lens merge STORE...` take from the first store."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.base import begun_run
from jobs.extract_settings import ExtractSettings, require_chosen_by_hash
from launch.flags import flags_of
from lenscore.models.source import hub_repository
from storage_layouts.errors import naming_store
from storage_layouts.runs import RunFolder

OWN = {"out", "add", "corpus", "column", "encoding_errors", "language", "fraction", "limit", "trust_remote_code"}
"""Settings that are not taken from a store: the choice of the sentences that are added, and the leave to run code."""


def with_first_store(words: Sequence[str]) -> list[str]:
    """Returns the words with what stands in the first store of --add and not among them; unchanged without --add.

    Stores that are named hf:REPO become their folders. So the Hub is asked once, and a branch that moves meanwhile does
    not matter; a run that has begun in --out stays at its commits. Raises InputError if one cannot be downloaded.
    """
    add = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add.add_argument("--add", nargs="*", type=Path, default=[])
    stores, others = add.parse_known_args(list(words))
    if not stores.add:
        return list(words)
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--model", nargs="?")
    own.add_argument("--out", type=Path, nargs="?")
    given = own.parse_known_args(others)[0]
    folders = _folders(stores.add, given.out)
    settings = settings_of(folders[0])
    if given.model is not None:  # the recorded commit is that of another repository
        settings.pop("revision", None)
    known = flags_of(settings, ExtractSettings, f"{folders[0]}/run.json", words)
    return [*known, *others, "--add", *map(str, folders)]


def _folders(stores: Sequence[Path], out: Path | None) -> list[Path]:
    """The folders of stores, of which those that are named hf:REPO are downloaded."""
    if not any(hub_repository(store, "store") for store in stores):
        return list(stores)
    from lenscore.index.hub import store_folder

    run = begun_run(out) if out else None
    began_with = [*(run.config.get("add") or () if run else ()), *[None] * len(stores)]
    return [store_folder(store, None, began, "", "store") for store, began in zip(stores, began_with, strict=False)]


def settings_of(store: Path) -> dict[str, Any]:
    """Returns the settings of a store by the names of fields, with the recorded commit of its model, and no corpus."""
    with naming_store(store):
        run = RunFolder.open(store, ExtractSettings.stage)
    names = {field.name for field in dataclasses.fields(ExtractSettings)} - OWN
    require_chosen_by_hash(run)
    commit = run.inputs["model"].get("revision")
    revision = {} if commit is None or Path(run.config["model"]).is_dir() else {"revision": commit}
    return {name: value for name, value in run.config.items() if name in names} | revision | {"corpus": []}
