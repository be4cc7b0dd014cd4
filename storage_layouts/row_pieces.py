"""Rows in several pieces of memory, which can be used like one tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from storage_layouts.mapped_memory import let_go, load

if TYPE_CHECKING:
    from torch import Tensor

READERS = 4
"""Threads that load pieces: one cannot saturate a fast disk."""


class RowPieces:
    """Rows [N, ...] in pieces of `piece_rows` rows each (the last may have fewer), with a part of the tensor interface.

    A shard file has checksums between its inner chunks, so the rows of a mapped file are not contiguous. The pieces are
    views of such files (`RowArray.map_layer`): nothing is copied until rows are indexed. `mapped` says that they are,
    so that they can be loaded and let go.
    """

    def __init__(self, pieces: Sequence[Tensor], mapped: bool = False) -> None:
        self.pieces, self.mapped = list(pieces), mapped
        self.piece_rows = len(self.pieces[0])
        if any(len(piece) != self.piece_rows for piece in self.pieces[:-1]) or len(self.pieces[-1]) > self.piece_rows:
            raise ValueError("pieces of rows must be of one length, but for a shorter last one")
        rows = self.piece_rows * (len(self.pieces) - 1) + len(self.pieces[-1])
        self.shape = (rows, *self.pieces[0].shape[1:])
        self.dtype, self.device = self.pieces[0].dtype, self.pieces[0].device

    def __len__(self) -> int:
        return self.shape[0]

    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def element_size(self) -> int:
        """Bytes per element."""
        return self.pieces[0].element_size()

    def is_floating_point(self) -> bool:
        """Whether the dtype is a floating-point dtype."""
        return self.dtype.is_floating_point

    def whole(self) -> Tensor:
        """All rows as one tensor, copied."""
        import torch

        return torch.cat(self.pieces)

    def between(self, first: int, stop: int) -> RowPieces:
        """Some rows as pieces, not copied. ValueError unless `first` is that of a piece."""
        if first % self.piece_rows:
            raise ValueError(f"row {first} is not the first of a piece of {self.piece_rows} rows")
        pieces = self.pieces[first // self.piece_rows : -(-stop // self.piece_rows)]
        last = pieces[-1][: stop - first - (len(pieces) - 1) * self.piece_rows]
        return RowPieces([*pieces[:-1], last], self.mapped)

    def load(self) -> None:
        """Read mapped pieces from the disk into memory, faster than when their rows are used."""
        if self.mapped:
            with ThreadPoolExecutor(READERS) as pool:
                list(pool.map(lambda piece: load(piece.data_ptr(), piece.numel() * piece.element_size()), self.pieces))

    def let_go(self) -> None:
        """Take mapped pieces from memory until they are used again."""
        if self.mapped:
            for piece in self.pieces:
                let_go(piece.data_ptr(), piece.numel() * piece.element_size())

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Some rows as one tensor: a view if a slice (of step 1) is within a piece, else a copy."""
        import torch

        if isinstance(rows, torch.Tensor):
            return self._gathered(rows)
        first, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError("rows are taken in order")
        size = self.piece_rows
        parts = [
            self.pieces[i][max(first - i * size, 0) : stop - i * size] for i in range(first // size, -(-stop // size))
        ]
        return parts[0] if len(parts) == 1 else torch.cat([self.pieces[0][:0], *parts])

    def _gathered(self, rows: Tensor) -> Tensor:
        import torch

        ordered, order = rows.sort()
        found = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        pieces, counts = torch.unique_consecutive(ordered // self.piece_rows, return_counts=True)
        for piece, places in zip(pieces.tolist(), order.split(counts.tolist()), strict=True):
            found[places] = self.pieces[piece][rows[places] - piece * self.piece_rows]
        return found
