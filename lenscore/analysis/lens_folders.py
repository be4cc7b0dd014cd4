"""The folders that lenses need, looked for before any large library is loaded."""

from __future__ import annotations

from pathlib import Path

from lenscore.models.source import hub_repository
from storage_layouts.errors import MissingFileError
from storage_layouts.runs import RunFolder
from storage_layouts.tuned_lens import require_tuned_lens


def require_lens_folders(store: Path | None, tuned: Path | None) -> None:
    """Raises InputError unless the store and the Tuned Lens are what they should be; None needs nothing.

    Of a store on the Hub, only its name is checked.
    """
    if store is not None and hub_repository(store) is None:
        RunFolder.open(store, "extract")
    if tuned is not None:
        if not tuned.is_dir():
            raise MissingFileError(f"--tuned {tuned}: no such folder")
        require_tuned_lens(tuned)
