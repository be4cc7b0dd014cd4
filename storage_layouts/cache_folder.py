"""The user's cache folder: what can be made or downloaded again."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = "LENSCORE_CACHE"
"""Environment variable: the folder, instead of lenscore in the user's cache."""


def cache_folder() -> Path:
    """The folder, which may not exist yet."""
    return Path(os.environ.get(CACHE) or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lenscore")
