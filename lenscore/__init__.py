"""lenscore: which words the hidden states of vision-language models stand for, at scale.

The names of the latentlens library (arXiv 2602.00462) have the same meaning here. Each name is imported at its first
use, so `import lenscore` does not import torch.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenscore.contexts.corpus import load_corpus
    from lenscore.extract.in_memory_index import build_index
    from lenscore.index.contextual_index import ContextualIndex, Neighbor
    from lenscore.lenses import EmbeddingLens, LatentLens, LogitLens, Patchscopes, TunedLens
    from lenscore.models.hidden_states import get_hidden_states
    from lenscore.models.layers import MODEL_DEFAULTS, SUPPORTED_MODELS, auto_layers
    from lenscore.models.loading import LanguageModel, Vlm, load_model, load_vlm
    from lenscore.single_image.analysis import analyze_image
    from lenscore.single_image.analyzed_image import AnalyzedImage
    from lenscore.single_text.analyzed_text import AnalyzedText
    from lenscore.single_text.text_analysis import analyze_text
    from lenscore.word_maps.found_words import FoundWords
    from lenscore.word_maps.word_finder import find_words
    from storage_layouts.embeddings import EmbeddingStore
    from storage_layouts.errors import InputError
    from storage_layouts.results import LensResults

    __version__: str
    open_store = EmbeddingStore.open

__all__ = [
    "MODEL_DEFAULTS",
    "SUPPORTED_MODELS",
    "AnalyzedImage",
    "AnalyzedText",
    "ContextualIndex",
    "EmbeddingLens",
    "EmbeddingStore",
    "FoundWords",
    "InputError",
    "LanguageModel",
    "LatentLens",
    "LensResults",
    "LogitLens",
    "Neighbor",
    "Patchscopes",
    "TunedLens",
    "Vlm",
    "__version__",
    "analyze_image",
    "analyze_text",
    "auto_layers",
    "build_index",
    "find_words",
    "get_hidden_states",
    "load_corpus",
    "load_model",
    "load_vlm",
    "open_store",
]

_MODULES = {
    "lenscore.contexts.corpus": ("load_corpus",),
    "lenscore.extract.in_memory_index": ("build_index",),
    "lenscore.index.contextual_index": ("ContextualIndex", "Neighbor"),
    "lenscore.lenses": ("EmbeddingLens", "LatentLens", "LogitLens", "Patchscopes", "TunedLens"),
    "lenscore.models.hidden_states": ("get_hidden_states",),
    "lenscore.models.layers": ("MODEL_DEFAULTS", "SUPPORTED_MODELS", "auto_layers"),
    "lenscore.models.loading": ("LanguageModel", "Vlm", "load_model", "load_vlm"),
    "lenscore.single_image.analysis": ("analyze_image",),
    "lenscore.single_image.analyzed_image": ("AnalyzedImage",),
    "lenscore.single_text.text_analysis": ("analyze_text",),
    "lenscore.single_text.analyzed_text": ("AnalyzedText",),
    "lenscore.word_maps.word_finder": ("find_words",),
    "lenscore.word_maps.found_words": ("FoundWords",),
    "storage_layouts.embeddings": ("EmbeddingStore",),
    "storage_layouts.errors": ("InputError",),
    "storage_layouts.results": ("LensResults",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in ("extract", "index", "models"):  # as attributes, because `import latentlens` imports these modules
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
