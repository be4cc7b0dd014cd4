"""One contextual layer of an index, put together from blocks of states without holding them all."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from lenscore.index.quantized_layer import QuantizedLayer
from storage_layouts.quantize import Encoded, choose_outlier_dims, encode, outlier_count

ROWS_PER_BLOCK = 16384
"""Rows that are encoded at a time where all of them are in memory already."""


def encoded_layer(embeddings: Tensor, context: str) -> QuantizedLayer:
    """A layer of embeddings [N, dim] in any float dtype, as float32 unit vectors.

    `context` names it in errors. ValueError for a row that is zero or not finite, and for no rows.
    """
    builder = LayerBuilder(len(embeddings), "float32", context)
    for block in embeddings.split(ROWS_PER_BLOCK):
        builder.add(block.float())
    return builder.finish()


class LayerBuilder:
    """Encodes states as they come; `add` all of them, then `finish`.

    `rows` says how many will come, `encoding` is one of `quantize.ENCODINGS`, `context` names the layer in errors.
    Which dimensions are kept apart is decided by the first block. Everything stays on the device of that block.
    """

    def __init__(self, rows: int, encoding: str, context: str) -> None:
        self._rows, self._encoding, self._context = rows, encoding, context
        self._dims = np.empty(0, np.int32)
        self._parts: list[Tensor] = []
        self._filled = 0

    def add(self, states: Tensor) -> None:
        """Encode a block of states, [n, dim] in any float dtype. ValueError for one that is zero or not finite."""
        if not len(states):
            return
        if not self._parts:
            count = outlier_count(states.shape[1])
            self._dims = choose_outlier_dims(states, count, self._context)
        block = encode(states, self._encoding, self._dims, f"{self._context}, rows from {self._filled} on")
        parts = (block.codes, block.outliers, block.scale, block.norm)
        if not self._parts:
            self._parts = [part.new_empty((self._rows, *part.shape[1:])) for part in parts]
        for whole, part in zip(self._parts, parts, strict=True):
            whole[self._filled : self._filled + len(part)] = part
        self._filled += len(states)

    def finish(self) -> QuantizedLayer:
        """The whole layer. ValueError if rows are missing."""
        if self._filled != self._rows or not self._rows:
            raise ValueError(f"{self._context}: found {self._filled} states, expected {self._rows}, at least one")
        return QuantizedLayer(Encoded(*self._parts), self._encoding, self._dims)
