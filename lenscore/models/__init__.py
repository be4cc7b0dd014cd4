"""Language models and vision-language models: loaded as their checkpoint says, and taken apart generically.

The names of `latentlens.models` stand here too, for scripts that were written for that library.
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
    """Import a name of latentlens from its module when it is asked for."""
    if name not in _LATENTLENS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATENTLENS[name]}"), name)
