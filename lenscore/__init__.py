"""lenscore: which words the hidden states of vision-language models stand for, at scale.

The names of the latentlens library (arXiv 2602.00462) stand here with the same meaning, next to our own.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "ContextualIndex": "lenscore.index.contextual_index",
    "MODEL_DEFAULTS": "lenscore.models.layers",
    "Neighbor": "lenscore.index.contextual_index",
    "SUPPORTED_MODELS": "lenscore.models.layers",
    "auto_layers": "lenscore.models.layers",
    "analyze_image": "lenscore.single_image.analysis",
    "build_index": "lenscore.extract",
    "get_hidden_states": "lenscore.models.hidden_states",
    "load_corpus": "lenscore.contexts.corpus",
    "load_model": "lenscore.models.loading",
    "load_vlm": "lenscore.models.loading",
    "open_store": "storage_layouts.embeddings",
}
_MODULES = ("extract", "index", "models")
"""The modules of latentlens that have their names here too; `import latentlens` imports its own."""
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `import lenscore` alone costs no torch."""
    if name in _MODULES:
        return importlib.import_module(f"lenscore.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'lenscore' has no attribute {name!r}")
    home = importlib.import_module(_HOME[name])
    return home.EmbeddingStore.open if name == "open_store" else getattr(home, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
