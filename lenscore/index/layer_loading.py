"""Layers of a store on their way into memory or onto a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lenscore.index.quantized_layer import QuantizedLayer
from storage_layouts.embeddings import EmbeddingStore

ROOM_FOR_SEARCH = 4 * 2**30
"""Bytes left free on a CUDA device that is to hold all layers: blocks, hidden states, the forward pass."""


def fits(size: int, device: torch.device) -> bool:
    """Is there room for `size` more bytes of index on the device? Host memory has to do."""
    return device.type != "cuda" or size <= torch.cuda.mem_get_info(device)[0] - ROOM_FOR_SEARCH


def load_layers(store: EmbeddingStore, layers: Sequence[int], device: torch.device) -> dict[int, QuantizedLayer]:
    """Some layers of a store, ready to be searched on a device.

    For the CPU the files are mapped, not copied. For a CUDA device they are read into pinned memory, a layer
    ahead, and go to the device if it has room for all of them; otherwise they stay there.
    """
    if device.type != "cuda":
        return {
            layer: QuantizedLayer(store.map_layer(layer), store.encoding, store.outlier_dims(layer)) for layer in layers
        }
    placed: dict[int, QuantizedLayer] = {}
    resident = False
    for layer, encoded in store.read_layers(layers, pinned_array):
        codes = QuantizedLayer(encoded.torch(), store.encoding, store.outlier_dims(layer))
        if not placed:
            resident = fits(codes.bytes * len(layers), device)
        placed[layer] = codes.to(device) if resident else codes
    return placed


def pinned_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array with anything in it, in memory from which a CUDA device (if there is one) fetches at full speed."""
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    return torch.empty(shape, dtype=kind, pin_memory=torch.cuda.is_available()).numpy()
