"""The settings that `lens extract --add STORE` and `lens merge STORE...` take from the first store."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.extract_settings import ExtractSettings, local_stores, require_chosen_by_hash
from launch.flags import flags_of
from storage_layouts.errors import naming_store
from storage_layouts.runs import RunFolder

OWN = {"out", "add", "corpus", "column", "encoding_errors", "language", "fraction", "limit", "trust_remote_code"}
"""Settings that are not taken from a store: the choice of the sentences that are added, and the leave to run code."""


def flags_of_store(words: Sequence[str]) -> list[str]:
    """Returns the flags that stand in the first store of --add and not among the words; [] without --add."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--add", nargs="*", type=Path, default=[])
    own.add_argument("--model", nargs="?")
    own.add_argument("--out", type=Path, nargs="?")
    given = own.parse_known_args(list(words))[0]
    if not given.add:
        return []
    (first,) = local_stores(given.add[:1], given.out)
    settings = settings_of(first)
    if given.model is not None:  # the recorded commit is that of another repository
        settings.pop("revision", None)
    return flags_of(settings, ExtractSettings, f"{first}/run.json", words)


def settings_of(store: Path) -> dict[str, Any]:
    """Returns the settings of a store by the names of fields, with the recorded commit of its model, and no corpus."""
    with naming_store(store):
        run = RunFolder.open(store, ExtractSettings.stage)
    names = {field.name for field in dataclasses.fields(ExtractSettings)} - OWN
    require_chosen_by_hash(run)
    commit = run.inputs["model"].get("revision")
    revision = {} if commit is None or Path(run.config["model"]).is_dir() else {"revision": commit}
    return {name: value for name, value in run.config.items() if name in names} | revision | {"corpus": []}
