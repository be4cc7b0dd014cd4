"""One contextual layer in memory: its codes in 8 or 16 bits, and their decoding."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from storage_layouts.quantize import Encoded, decode_unit
from storage_layouts.row_pieces import RowPieces

ROWS_PER_PASS = 8192


@dataclass(frozen=True)
class QuantizedLayer:
    """One contextual layer: all rows in one encoding, and the outlier dimensions.

    `encoded` holds torch tensors; its codes may be `RowPieces`. Decoded rows have length 1. `excluded` are rows that
    no search finds: int64 ascending.
    """

    encoded: Encoded
    encoding: str
    outlier_dims: np.ndarray
    excluded: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def device(self) -> torch.device:
        """Device of the codes."""
        return torch.device(self.encoded.codes.device)

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return int(self.encoded.codes.shape[1])

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return sum(part.numel() * part.element_size() for part in vars(self.encoded).values())

    def to(self, device: torch.device) -> QuantizedLayer:
        """The same layer on another device; itself if it is there already."""
        if self.device == device:
            return self
        return replace(self, encoded=self._whole().torch(device))

    def pinned(self) -> QuantizedLayer:
        """The same layer in pinned host memory, if CUDA is available, for fast copies to a device."""
        if not torch.cuda.is_available():
            return self.to(torch.device("cpu"))
        parts = (part.pin_memory() for part in vars(self._whole().torch("cpu")).values())
        return replace(self, encoded=Encoded(*parts))

    def _whole(self) -> Encoded:
        """All rows with contiguous codes."""
        codes = self.encoded.codes
        return replace(self.encoded, codes=codes.whole() if isinstance(codes, RowPieces) else codes)

    @cached_property
    def candidates(self) -> int:
        """Number of rows that a search may find."""
        return len(self) - len(self.excluded)

    def excluded_within(self, first: int, stop: int) -> Tensor:
        """Which of some rows no search finds, counted from `first`: int64 [m] on the layer's device."""
        start, end = np.searchsorted(self.excluded, (first, stop))
        return torch.from_numpy(self.excluded[start:end] - first).to(self.device)

    def decoded(self, first: int, stop: int) -> Tensor:
        """Unit vectors of some rows, float32 [stop - first, dim]."""
        return decode_unit(self.encoded[first:stop], self.encoding, self.outlier_dims)

    def decoded_rows(self, rows: Tensor) -> Tensor:
        """Unit vectors of some rows int64 [m] in their order, float32 [m, dim], on the layer's device."""
        rows = rows.to(self.device)
        some = self.encoded.map(lambda part: part[rows])
        return decode_unit(some, self.encoding, self.outlier_dims)

    @cached_property
    def max_norm(self) -> float:
        """The largest length of a row without the outlier dimensions, for error bounds of scores.

        Raises ValueError for a row that holds fill values (NaN).
        """
        e, largest = self.encoded, 0.0
        for first in range(0, len(self), ROWS_PER_PASS):
            rows = slice(first, first + ROWS_PER_PASS)
            codes = e.codes[rows]
            if _any_fill(codes, self.encoding) or not bool(e.scale[rows].isfinite().all()):
                try:
                    self.decoded(first, min(first + ROWS_PER_PASS, len(self)))
                except ValueError as error:
                    raise ValueError(f"counted from row {first} of the layer: {error}") from None
            values = code_values(codes, self.encoding, torch.float16 if codes.is_cuda else torch.bfloat16)
            lengths = torch.linalg.vector_norm(values, dim=1, dtype=torch.float32) * e.scale[rows]
            largest = max(largest, float(lengths.amax()))
        if not bool(e.outliers.isfinite().all()):
            self.decoded(0, len(self))
        return largest * 1.01  # more than the rounding of these sums

    def exact(self, rows: Tensor | slice) -> tuple[Tensor, Tensor, Tensor]:
        """Some rows without rounding: codes as numbers [m, dim], scale [m], outliers [m, K]; float64."""
        e = self.encoded
        return (
            code_values(e.codes[rows], self.encoding, torch.float64),
            e.scale[rows].double(),
            e.outliers[rows].double(),
        )


def _any_fill(codes: Tensor, encoding: str) -> bool:
    """Whether there is a fill code, found by the largest or smallest bits, which is far faster than decoding."""
    if encoding == "int8":
        return int(codes.amin()) == 0
    if codes.is_floating_point():
        return not bool(codes.isfinite().all())
    return int(codes.view(torch.int8).amax()) == 0x7F or int(codes.amax()) == 0xFF


def code_values(codes: Tensor, encoding: str, dtype: torch.dtype) -> Tensor:
    """Codes as numbers in `dtype`: float16 (for float8 and int8 codes), bfloat16 or wider; fill codes are undefined.

    They are exact, except that codes wider than `dtype` are rounded.
    """
    if encoding == "int8":
        return codes.to(dtype).sub_(128)
    if codes.is_floating_point():
        return codes.to(dtype)
    if codes.is_cuda:
        return codes.view(torch.float8_e4m3fn).to(dtype)
    # On a CPU, torch converts float8 as slowly as it multiplies the matrices afterwards. But the bits of float8 are
    # those of a bfloat16 shifted by 4, with an exponent that differs by 120, and a bfloat16 is the half of a float32.
    # (A product with 16, because torch's product of integers is vectorised and its shift is not.)
    integers, floats, more = (torch.int32, torch.float32, 16) if dtype == torch.float32 else _BFLOAT16
    bits = codes.view(torch.int8).to(integers).mul_(2 ** (4 + more)).bitwise_and_(_FLOAT8_BITS * 2**more)
    return bits.view(floats).mul_(2.0**120).to(dtype)


_BFLOAT16 = (torch.int16, torch.bfloat16, 0)
# In a bfloat16 from a float8: sign, four bits of the exponent, three of the mantissa.
_FLOAT8_BITS = 0x87F0 - 0x10000
