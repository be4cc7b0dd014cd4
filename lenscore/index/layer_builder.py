"""One contextual layer of an index, built from blocks of states."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lenscore.index.quantized_layer import QuantizedLayer
from storage_layouts.quantize import (
    ROWS_AT_A_TIME,
    Encoded,
    choose_outlier_dims,
    encode,
    largest_dims,
    unit_rows,
)

ROWS_PER_BLOCK = 16384
"""Rows that are handed over at a time if all are in memory; the first so many determine the outlier dimensions."""


def encoded_layer(embeddings: Tensor, context: str) -> QuantizedLayer:
    """A layer of embeddings [N, dim] in any float dtype, as float32 unit vectors.

    `context` names it in errors. Raises ValueError for a row that is zero or not finite, and for no rows.
    """
    if not len(embeddings):
        raise ValueError(f"{context}: found no states, expected at least one")
    # As by a `LayerBuilder`, but the unit vectors are computed once, in the memory where they stay.
    embeddings = embeddings.detach()
    units = embeddings.new_empty(embeddings.shape, dtype=torch.float32)
    norms, largest = units.new_empty(len(units)), units.new_zeros(units.shape[1:])
    for first in range(0, len(units), ROWS_AT_A_TIME):
        rows = slice(first, first + ROWS_AT_A_TIME)
        try:
            unit, norms[rows] = unit_rows(embeddings[rows], out=units[rows])
        except ValueError:
            unit_rows(embeddings, context)  # names the row
            raise
        if first < ROWS_PER_BLOCK:
            largest = torch.maximum(largest, unit.abs().amax(dim=0))
    dims = largest_dims(largest)
    outliers = units[:, dims]
    units[:, dims] = 0.0
    return QuantizedLayer(Encoded(units, outliers, torch.ones_like(norms), norms), "float32", dims)


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
