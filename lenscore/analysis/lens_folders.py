"""The folders that lenses need, looked for before any large library is loaded."""

from __future__ import annotations

from pathlib import Path

from storage_layouts.errors import MissingFileError
from storage_layouts.runs import RunFolder


def require_lens_folders(store: Path | None, tuned: Path | None) -> None:
    """Raises InputError unless the store is one and the folder of the Tuned Lens is there; None needs nothing."""
    if store is not None:
        RunFolder.open(store, "extract")
    if tuned is not None and not tuned.is_dir():
        raise MissingFileError(f"--tuned {tuned}: no such folder")
