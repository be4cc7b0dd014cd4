"""Language models and vision-language models: loading, layers, hidden states.

The names of `latentlens.models` are importable from here too, for scripts written for that library.
"""

from __future__ import annotations

import importlib
from typing import Any

_LATENTLENS = {
    "MODEL_DEFAULTS": "layers",
    "SUPPORTED_MODELS": "layers",
    "get_hidden_states": "hidden_states",
    "load_model": "loading",
}


def __getattr__(name: str) -> Any:
    """Import a name of latentlens at its first use."""
    if name not in _LATENTLENS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATENTLENS[name]}"), name)
