"""lenscore: which words the hidden states of vision-language models stand for, at scale.

The names of the latentlens library (arXiv 2602.00462) stand here with the same meaning, next to our own. Each is
imported when it is used, so `import lenscore` alone costs no torch.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenscore.contexts.corpus import load_corpus
    from lenscore.extract import build_index
    from lenscore.index.contextual_index import ContextualIndex, Neighbor
    from lenscore.lenses import EmbeddingLens, LatentLens, LogitLens
    from lenscore.models.hidden_states import get_hidden_states
    from lenscore.models.layers import MODEL_DEFAULTS, SUPPORTED_MODELS, auto_layers
    from lenscore.models.loading import Vlm, load_model, load_vlm
    from lenscore.single_image.analysis import analyze_image
    from lenscore.single_image.analyzed_image import AnalyzedImage
    from storage_layouts.embeddings import EmbeddingStore
    from storage_layouts.errors import InputError
    from storage_layouts.results import LensResults

    __version__: str
    open_store = EmbeddingStore.open

__all__ = [
    "MODEL_DEFAULTS",
    "SUPPORTED_MODELS",
    "AnalyzedImage",
    "ContextualIndex",
    "EmbeddingLens",
    "EmbeddingStore",
    "InputError",
    "LatentLens",
    "LensResults",
    "LogitLens",
    "Neighbor",
    "Vlm",
    "__version__",
    "analyze_image",
    "auto_layers",
    "build_index",
    "get_hidden_states",
    "load_corpus",
    "load_model",
    "load_vlm",
    "open_store",
]

_HOME = {
    "AnalyzedImage": "lenscore.single_image.analyzed_image",
    "ContextualIndex": "lenscore.index.contextual_index",
    "EmbeddingLens": "lenscore.lenses",
    "EmbeddingStore": "storage_layouts.embeddings",
    "InputError": "storage_layouts.errors",
    "LatentLens": "lenscore.lenses",
    "LensResults": "storage_layouts.results",
    "LogitLens": "lenscore.lenses",
    "MODEL_DEFAULTS": "lenscore.models.layers",
    "Neighbor": "lenscore.index.contextual_index",
    "SUPPORTED_MODELS": "lenscore.models.layers",
    "Vlm": "lenscore.models.loading",
    "analyze_image": "lenscore.single_image.analysis",
    "auto_layers": "lenscore.models.layers",
    "build_index": "lenscore.extract",
    "get_hidden_states": "lenscore.models.hidden_states",
    "load_corpus": "lenscore.contexts.corpus",
    "load_model": "lenscore.models.loading",
    "load_vlm": "lenscore.models.loading",
}
_MODULES = ("extract", "index", "models")
"""The modules of latentlens that have their names here too; `import latentlens` imports its own."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"lenscore.{name}")
    if name == "__version__":
        return metadata.version("lenscore")
    if name == "open_store":
        return importlib.import_module("storage_layouts.embeddings").EmbeddingStore.open
    if name not in _HOME:
        raise AttributeError(f"module 'lenscore' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
