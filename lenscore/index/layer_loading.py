"""Loading of a store's layers into memory or onto a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lenscore.index.device_shares import room_on
from lenscore.index.quantized_layer import QuantizedLayer
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.quantize import Encoded


def load_layers(
    store: EmbeddingStore, layers: Sequence[int], devices: Sequence[torch.device], limit: int | None = None
) -> dict[int, QuantizedLayer]:
    """Some layers of a store, for `shares_of`. Raises InputError for a layer that is not in the store.

    Attention sinks are excluded, unless the store keeps them. If one CUDA device may hold all layers, they are read
    into pinned memory, one layer ahead, and copied to it. Otherwise the files are mapped, not copied, and let go after
    they have been checked if the devices may not hold all of them.
    """
    dims = {layer: store.outlier_dims(layer) for layer in layers}

    def quantized(layer: int, encoded: Encoded) -> QuantizedLayer:
        return QuantizedLayer(encoded, store.encoding, dims[layer], store.sinks)

    fits = len(layers) * store.layout.layer_bytes <= len(devices) * room_on(devices, limit)
    if fits and len(devices) == 1 and devices[0].type == "cuda":
        read = store.read_layers(layers, pinned_array)
        return {layer: quantized(layer, encoded.torch()).to(devices[0]) for layer, encoded in read}
    resident = fits and all(device.type == "cpu" for device in devices)
    return {layer: quantized(layer, store.map_layer(layer, resident)) for layer in layers}


def pinned_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array in pinned memory (if CUDA is available), from which copies to a device are fastest."""
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    return torch.empty(shape, dtype=kind, pin_memory=torch.cuda.is_available()).numpy()
