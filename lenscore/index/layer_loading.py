"""Loading of a store's layers into memory or onto a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lenscore.index.quantized_layer import QuantizedLayer
from storage_layouts.embeddings import EmbeddingStore

ROOM_FOR_SEARCH = 4 * 2**30
"""Bytes left free on a CUDA device that holds all layers: for blocks, hidden states, the forward pass."""


def fits(size: int, device: torch.device) -> bool:
    """Whether a device has room for `size` more bytes of index; always true for host memory."""
    return device.type != "cuda" or size <= torch.cuda.mem_get_info(device)[0] - ROOM_FOR_SEARCH


def load_layers(store: EmbeddingStore, layers: Sequence[int], device: torch.device) -> dict[int, QuantizedLayer]:
    """Some layers of a store for searches on a device. Raises InputError for a layer that is not in the store.

    For the CPU the files are mapped, not copied. For a CUDA device they are read into pinned memory, one layer ahead,
    and copied to the device if it has room for all of them.
    """
    dims = {layer: store.outlier_dims(layer) for layer in layers}
    if device.type != "cuda":
        return {layer: QuantizedLayer(store.map_layer(layer), store.encoding, dims[layer]) for layer in layers}
    placed: dict[int, QuantizedLayer] = {}
    resident = False
    for layer, encoded in store.read_layers(layers, pinned_array):
        codes = QuantizedLayer(encoded.torch(), store.encoding, dims[layer])
        if not placed:
            resident = fits(codes.bytes * len(layers), device)
        placed[layer] = codes.to(device) if resident else codes
    return placed


def pinned_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array in pinned memory (if CUDA is available), from which copies to a device are fastest."""
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    return torch.empty(shape, dtype=kind, pin_memory=torch.cuda.is_available()).numpy()
