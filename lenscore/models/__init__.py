"""Language models and vision-language models: loading, layers, hidden states.

The names of `latentlens.models` are importable from here too, for scripts written for that library.
"""

from __future__ import annotations

from typing import Any

import lenscore


def __getattr__(name: str) -> Any:
    """Import a name of latentlens at its first use."""
    if name in ("MODEL_DEFAULTS", "SUPPORTED_MODELS", "get_hidden_states", "load_model"):
        return getattr(lenscore, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
