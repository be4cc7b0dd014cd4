"""Cache folders of the latentlens library, as layers of an index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lenscore.index.layer_builder import encoded_layer
from lenscore.index.quantized_layer import QuantizedLayer
from lenscore.index.row_words import RowWords
from storage_layouts.errors import InputError
from storage_layouts.latentlens_files import cache_files, read_caches


def read_cache_folder(
    path: Path, layers: Sequence[int] | None = None
) -> tuple[dict[int, QuantizedLayer], dict[int, RowWords]]:
    """Embeddings and words of all or some layers of a cache folder, by layer.

    Raises InputError for another kind of folder, a missing layer, a file that holds more than plain data, and layers of
    different widths.
    """
    codes: dict[int, QuantizedLayer] = {}
    words: dict[int, RowWords] = {}
    files = cache_files(path, layers)
    for (layer, file), cache in zip(files.items(), read_caches(files.values()), strict=True):
        try:
            codes[layer] = encoded_layer(cache.embeddings, f"layer {layer}")
        except ValueError as error:
            raise InputError(f"{file}: {error}") from None
        words[layer] = RowWords.shared(cache.rows, cache.sentences, words.values())
    widths = {layer: layer_codes.dim for layer, layer_codes in codes.items()}
    if len(set(widths.values())) > 1:
        raise InputError(f"{path}: the layers have different widths: {widths}")
    return codes, words
