"""The contextual embeddings of a store, searched exactly.

The names of `latentlens.index` are importable from here too, for scripts written for that library.
"""

from __future__ import annotations

from typing import Any

import lenscore


def __getattr__(name: str) -> Any:
    """Import a name of latentlens at its first use."""
    if name in ("ContextualIndex", "Neighbor"):
        return getattr(lenscore, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
