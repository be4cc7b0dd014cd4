"""The contextual embeddings of a store, searched exactly.

The names of `latentlens.index` are importable from here too, for scripts written for that library.
"""

from __future__ import annotations

import importlib
from typing import Any

_LATENTLENS = {
    "ContextualIndex": "contextual_index",
    "Neighbor": "contextual_index",
}


def __getattr__(name: str) -> Any:
    """Import a name of latentlens at its first use."""
    if name not in _LATENTLENS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATENTLENS[name]}"), name)
