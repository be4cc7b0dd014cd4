"""One contextual layer in memory: its codes in 8 or 16 bits, and their decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lenscore.index.single_threaded import on_own_threads
from storage_layouts.quantize import PARTS, Encoded, decode_unit
from storage_layouts.row_pieces import RowPieces

NUMBERS_PER_PASS = {"cpu": 2**19, "cuda": 2**25}
"""Numbers that are decoded at a time to measure rows: on a CPU they stay in its cache."""


@dataclass(frozen=True)
class QuantizedLayer:
    """One contextual layer, or a range of its rows: rows in one encoding, and the outlier dimensions.

    `encoded` holds torch tensors; its codes may be `RowPieces`. Decoded rows have length 1. `excluded` are rows that
    no search finds: int64 ascending, counted from the first one here, which is row `first` of the layer.
    """

    encoded: Encoded
    encoding: str
    outlier_dims: np.ndarray
    excluded: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    first: int = 0
    _max_norm: list[float] = field(default_factory=list)  # once it is known; shared by copies on other devices

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
        """The same rows in pinned host memory, if CUDA is available, for fast copies to a device."""
        if not torch.cuda.is_available():
            return self.to(torch.device("cpu"))
        return replace(self, encoded=self._whole().torch("cpu").map(lambda part: part.pin_memory()))

    @property
    def row_step(self) -> int:
        """Ranges of rows begin at multiples of it."""
        codes = self.encoded.codes
        return codes.piece_rows if isinstance(codes, RowPieces) else 1

    def between(self, first: int, stop: int) -> QuantizedLayer:
        """A range of the rows, not copied; `first` is a multiple of `row_step`."""
        codes = self.encoded.codes
        start, end = np.searchsorted(self.excluded, (first, stop))
        return QuantizedLayer(
            Encoded(
                codes.between(first, stop) if isinstance(codes, RowPieces) else codes[first:stop],
                *(getattr(self.encoded, name)[first:stop] for name in PARTS if name != "codes"),
            ),
            self.encoding,
            self.outlier_dims,
            self.excluded[start:end] - first,
            self.first + first,
        )

    def load(self) -> None:
        """Read rows that are mapped from files into memory."""
        if isinstance(self.encoded.codes, RowPieces):
            self.encoded.codes.load()

    def let_go(self) -> None:
        """Take rows that are mapped from files from memory, until they are used again."""
        if isinstance(self.encoded.codes, RowPieces):
            self.encoded.codes.let_go()

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

    @property
    def max_norm(self) -> float:
        """The largest length of a row without the outlier dimensions, for error bounds of scores.

        Raises ValueError for a row that holds fill values (NaN).
        """
        if not self._max_norm:
            self._max_norm.append(self._measured_norm())
        return self._max_norm[0]

    def _measured_norm(self) -> float:
        step = max(1, NUMBERS_PER_PASS[self.device.type] // self.dim)
        lengths: list[float] = []

        def measure(ranges: Iterable[slice]) -> None:
            memory = Buffers(self.device).get
            lengths.extend(self._longest(rows, memory) for rows in ranges)

        ranges = [slice(first, min(first + step, len(self))) for first in range(0, len(self), step)]
        on_own_threads(measure, ranges, torch.get_num_threads() if self.device.type == "cpu" else 1)
        if not bool(self.encoded.outliers.isfinite().all()):
            self.decoded(0, len(self))
        return max(lengths) * 1.01  # more than the rounding of these sums

    def _longest(self, rows: slice, memory: Memory) -> float:
        codes, scale = self.encoded.codes[rows], self.encoded.scale[rows]
        if _any_fill(codes, self.encoding) or not bool(scale.isfinite().all()):
            try:
                self.decoded(rows.start, rows.stop)
            except ValueError as error:
                raise ValueError(f"counted from row {self.first + rows.start} of the layer: {error}") from None
        values = code_values(codes, self.encoding, torch.float16 if codes.is_cuda else torch.float32, memory)
        return float((torch.linalg.vector_norm(values, dim=1, dtype=torch.float32) * scale).amax())

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


Memory = Callable[[str, torch.dtype, int, int], Tensor]
"""Gives an uninitialised tensor [rows, columns] for a use and dtype, the same memory at each use."""


class Buffers:
    """Reused memory of one thread: new pages would cost as much time as writing to them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known: dict[tuple[str, torch.dtype], Tensor] = {}

    def get(self, use: str, dtype: torch.dtype, rows: int, columns: int) -> Tensor:
        """An uninitialised tensor [rows, columns], the same memory at each `use`."""
        known = self._known.get((use, dtype))
        if known is None or len(known) < rows * columns:
            known = self._known[use, dtype] = torch.empty(rows * columns, dtype=dtype, device=self._device)
        return known[: rows * columns].view(rows, columns)


def shrinks(encoding: str, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `code_values` can leave out a product with 2^120, which takes longer than all else."""
    return encoding == "float8_e4m3fn" and dtype == torch.bfloat16 and device.type == "cpu"


def code_values(
    codes: Tensor, encoding: str, dtype: torch.dtype, memory: Memory | None = None, shrunk: bool = False
) -> Tensor:
    """Codes [n, D] as numbers in `dtype`: float16 (for float8 and int8 codes), bfloat16 or wider, in `memory`.

    They are exact, except that codes wider than `dtype` are rounded; fill codes are undefined. If `shrunk`, which needs
    `shrinks`, all are 2^-120 of their values.
    """

    def fresh(use: str, kind: torch.dtype) -> Tensor:
        return memory(use, kind, *codes.shape) if memory else torch.empty(codes.shape, dtype=kind, device=codes.device)

    if encoding == "int8":  # less 128
        signed = torch.bitwise_xor(codes, 128, out=fresh("signed codes", torch.uint8)).view(torch.int8)
        return fresh("numbers", dtype).copy_(signed)
    if codes.dtype == dtype:
        return codes
    if codes.is_floating_point():
        return fresh("numbers", dtype).copy_(codes)
    if codes.is_cuda:
        return codes.view(torch.float8_e4m3fn).to(dtype)
    # On a CPU, torch converts float8 as slowly as it multiplies the matrices afterwards. But the bits of float8 are
    # those of a bfloat16 shifted by 4, with an exponent that differs by 120, and a bfloat16 is the half of a float32.
    # (A product with 16, because torch's product of integers is vectorised and its shift is not.)
    integers, floats, more = (torch.int32, torch.float32, 16) if dtype == torch.float32 else _BFLOAT16
    bits = fresh("bits", integers).copy_(codes.view(torch.int8))
    bits.mul_(2 ** (4 + more)).bitwise_and_(_FLOAT8_BITS * 2**more)
    return bits.view(floats) if shrunk else bits.view(floats).mul_(2.0**120).to(dtype)


_BFLOAT16 = (torch.int16, torch.bfloat16, 0)
# In a bfloat16 from a float8: sign, four bits of the exponent, three of the mantissa.
_FLOAT8_BITS = 0x87F0 - 0x10000
