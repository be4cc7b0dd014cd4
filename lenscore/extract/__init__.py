"""An index in memory from a model and a corpus, without a store.

The names of `latentlens.extract` are importable from here too, for scripts written for that library.
"""

from __future__ import annotations

from lenscore.extract.in_memory_index import auto_layers, build_index, load_corpus

__all__ = ["auto_layers", "build_index", "load_corpus"]
