"""One contextual layer of an index, built from blocks of states."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from lenscore.index.quantized_layer import QuantizedLayer
from storage_layouts.quantize import ROWS_AT_A_TIME, Encoded, choose_outlier_dims, encode

ROWS_PER_BLOCK = 16384
"""Rows that are handed over at a time if all are in memory; the first so many determine the outlier dimensions."""


def encoded_layer(embeddings: Tensor, context: str) -> QuantizedLayer:
    """A layer of embeddings [N, dim] in any float dtype, as float32 unit vectors.

    `context` names it in errors. Raises ValueError for a row that is zero or not finite, and for no rows.
    """
    builder = LayerBuilder(len(embeddings), "float32", context)
    for block in embeddings.split(ROWS_PER_BLOCK):
        builder.add(block)
    return builder.finish()


class LayerBuilder:
    """Encodes states block by block; `add` all of them, then `finish`.

    `rows` is their number, `encoding` one of `quantize.ENCODINGS`, `context` names the layer in errors. The first block
    determines the outlier dimensions and the device.
    """

    def __init__(self, rows: int, encoding: str, context: str) -> None:
        self._rows, self._encoding, self._context = rows, encoding, context
        self._dims = np.empty(0, np.int32)
        self._parts: list[Tensor] = []
        self._filled = 0

    def add(self, states: Tensor) -> None:
        """Encode states [n, dim] in any float dtype. Raises ValueError for one that is zero or not finite."""
        if not len(states):
            return
        if not self._parts:
            self._dims = choose_outlier_dims(states, context=self._context)
        for some in states.split(ROWS_AT_A_TIME):
            block = encode(some, self._encoding, self._dims, f"{self._context}, rows from {self._filled} on")
            parts = list(vars(block).values())
            if not self._parts:
                self._parts = [part.new_empty((self._rows, *part.shape[1:])) for part in parts]
            for whole, part in zip(self._parts, parts, strict=True):
                whole[self._filled : self._filled + len(part)] = part
            self._filled += len(some)

    def finish(self) -> QuantizedLayer:
        """The whole layer. Raises ValueError if rows are missing."""
        if self._filled != self._rows or not self._rows:
            raise ValueError(f"{self._context}: found {self._filled} states, expected {self._rows}, at least one")
        return QuantizedLayer(Encoded(*self._parts), self._encoding, self._dims)
