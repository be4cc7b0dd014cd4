"""Quantization of hidden states to 8, 16 or 32 bits per number, on the device of the states.

A few dimensions of a transformer's hidden state are 100 to 3000 times larger than the others and ruin any 8-bit scale.
So each state is divided by its length, the largest dimensions of the layer (the outliers) are stored separately in
float32, and the rest is divided by a scale per row that uses the full range of the codes.

The scale that multiplies the codes again is corrected for each row, so that the decoded row times the unit vector of
its state is 1: the error is then perpendicular to the state. Rows that a query finds are almost parallel to it, so this
is the direction whose error changes ranks most. It needs no more bytes. (RaBitQ, arXiv 2405.12497, divides by the same
product.) docs/performance.md has the recall of each encoding on real states.

The outliers are float32, not float16, because the large dimensions of real states hardly vary from row to row: with
eight of them at 3000 +- 3 %, recall@5 is 0.24 if they are rounded to float16, whatever the encoding of the rest, and
1.00 in float32. That costs 16 bytes per row (of 4,000).

One code of each encoding never occurs in data. It is the fill value of the arrays on disk, so a row that was never
written is recognised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # torch is imported where it computes: commands that only read run folders start without it
    import torch
    from torch import Tensor

ENCODINGS = ("float8_e4m3fn", "int8", "float16", "float32")
LARGEST = {"float8_e4m3fn": 448.0, "int8": 127.0, "float16": 1.0, "float32": 1.0}  # of the codes
FILLS: dict[str, Any] = {"float8_e4m3fn": 127, "int8": 0, "float16": "NaN", "float32": "NaN"}
SMALLEST_SCALE = 1e-30  # avoids a division by zero for a row whose only nonzero values are outliers
ROWS_AT_A_TIME = 1024
"""Rows whose numbers, and those computed from them, stay in the cache of a CPU: three times as fast as all at once."""
OUTLIERS, NARROW, OUTLIERS_IF_NARROW = 8, 768, 6
"""Below a width of 768, six outlier dimensions, so that a row of 576 numbers takes no more than 1.06 times as many
bytes with its scale and norm. (Real models have up to seven: arXiv 2208.07339.)"""


@dataclass(frozen=True)
class Encoded:
    """Encoded rows; torch tensors on any device, or numpy arrays.

    Attributes:
        codes: uint8 [n, D]; float16 or float32 [n, D] for the encodings of these names.
        outliers: float32 [n, K], the outlier dimensions of the unit vector; the codes are zero there.
        scale: float32 [n], factor of the codes that gives the rest of the unit vector; see `encode`.
        norm: float32 [n], length of the state.

    """

    codes: Any
    outliers: Any
    scale: Any
    norm: Any

    def __len__(self) -> int:
        return len(self.codes)

    def numpy(self) -> Encoded:
        """The same rows as numpy arrays on the host."""
        return self.map(lambda part: np.ascontiguousarray(part if isinstance(part, np.ndarray) else part.cpu().numpy()))

    def torch(self, device: torch.device | str = "cpu") -> Encoded:
        """The same rows as torch tensors on a device."""
        import torch

        return self.map(lambda part: torch.as_tensor(part, device=device))

    def __getitem__(self, rows: slice) -> Encoded:
        return self.map(lambda part: part[rows])

    def take(self, rows: np.ndarray) -> Encoded:
        """Some of the rows, by their numbers (numpy)."""
        return self.map(lambda part: part[rows])

    def map(self, change: Callable[[Any], Any]) -> Encoded:
        """Apply a function to each of the four arrays."""
        return Encoded(*(change(getattr(self, name)) for name in PARTS))


PARTS = tuple(part.name for part in fields(Encoded))


def joined(parts: Sequence[Encoded]) -> Encoded:
    """The rows of several parts (numpy) one after the other."""
    return Encoded(*(np.concatenate([getattr(part, name) for part in parts]) for name in PARTS))


def check_encoding(encoding: str) -> None:
    """Raises ValueError if there is no such encoding."""
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding {encoding!r}: choose one of {', '.join(ENCODINGS)}")


def outlier_count(dim: int) -> int:
    """Usual number of outlier dimensions among ``dim``: at most half of all, at least one."""
    return min(OUTLIERS if dim >= NARROW else OUTLIERS_IF_NARROW, max(1, dim // 2))


def unit_rows(states: Tensor, context: str = "", out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Unit vectors float32 [n, D], in `out` if it is given, and lengths float32 [n] of states in any float dtype.

    Raises ValueError for a row that is zero or not finite; `context` is shown in it, for example "layer 8".
    """
    import torch

    where = f" of {context}" if context else ""
    if states.ndim != 2 or not states.is_floating_point():
        raise ValueError(f"states{where}: expected floats [n, D], found {states.dtype} {list(states.shape)}")
    states = states.float()
    # Divided by the largest value first: the squares of values above 1e19 or below 1e-19 do not fit into float32.
    largest = states.abs().amax(dim=1, keepdim=True)
    scaled = torch.div(states, largest, out=out)
    lengths = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    norm = (lengths * largest).squeeze(1)
    bad = ~(torch.isfinite(norm) & (norm > 0))
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        what = "is zero" if float(largest[row]) == 0 else "has a length that is not finite (NaN, inf or overflow)"
        raise ValueError(f"row {row} of the states{where} {what}; {int(bad.sum())} such rows of {len(states)}")
    return scaled.div_(lengths), norm


def choose_outlier_dims(states: Tensor, count: int | None = None, context: str = "") -> np.ndarray:
    """The dimensions with the largest absolute value in any unit-normalised state.

    Args:
        states: [n, D], any float dtype and device; n > 0.
        count: how many; by default as `outlier_count` says.
        context: shown in errors, for example "layer 8".

    Returns:
        int32 [count], ascending. Among equal values the lower dimension is chosen.

    Raises:
        ValueError: no rows, or a row that is zero or not finite.

    """
    import torch

    if len(states) == 0:
        raise ValueError("no states to choose the outlier dimensions from")
    try:
        largest = torch.stack([unit_rows(some)[0].abs().amax(dim=0) for some in states.split(ROWS_AT_A_TIME)])
    except ValueError:
        unit_rows(states, context)  # names the row
        raise
    return largest_dims(largest.amax(dim=0), count)


def largest_dims(values: Tensor, count: int | None = None) -> np.ndarray:
    """The dimensions with the largest of values [D]; see `choose_outlier_dims`."""
    order = values.argsort(descending=True, stable=True)
    chosen = order[: outlier_count(len(values)) if count is None else count]
    return np.sort(chosen.cpu().numpy()).astype(np.int32)


def encode(states: Tensor, encoding: str, outlier_dims: np.ndarray | list[int], context: str = "") -> Encoded:
    """Encode states on their device. The code of a row depends only on the row and the outlier dimensions.

    Args:
        states: [n, D], any float dtype; computed in float32.
        encoding: one of `ENCODINGS`.
        outlier_dims: int [K], see `choose_outlier_dims`.
        context: shown in errors, for example "layer 8".

    Returns:
        `Encoded` of torch tensors. For a unit vector u, its codes c and s, the largest value of the rest by that of the
        codes, |u - s c| per dimension is at most |u| / 16 + s / 1024 (float8_e4m3fn), s / 2 (int8), |u| / 2048 + s /
        2^25 (float16) or 0 (float32, where s is 1). The stored scale is s (u u) / (u s c), with products over the rest:
        then the decoded row times u is 1. All plus float32 rounding, which outlier dimensions alone have.

    Raises:
        ValueError: no such encoding, or a row that is zero or not finite (the message names the row).

    """
    import torch

    check_encoding(encoding)
    unit, norm = unit_rows(states, context)
    dims = torch.as_tensor(np.asarray(outlier_dims, dtype=np.int64), device=unit.device)
    outliers = unit[:, dims]
    rest = unit.index_fill_(1, dims, 0.0)
    if encoding == "float32":
        return Encoded(rest, outliers, torch.ones_like(norm), norm)  # division by another number would round
    largest = LARGEST[encoding]
    scale = (rest.abs().amax(dim=1) / largest).clamp(min=SMALLEST_SCALE)
    ratio = (rest / scale[:, None]).clamp(-largest, largest)
    values = ratio.round() if encoding == "int8" else ratio.to(getattr(torch, encoding))
    if encoding == "int8":
        codes = (values + 128).to(torch.uint8)
    else:
        codes = values.view(torch.uint8) if encoding == "float8_e4m3fn" else values
    product = (ratio * values.float()).sum(dim=1)  # 0 if the row has nothing but outliers
    correction = ratio.square().sum(dim=1) / product.where(product > 0, 1)
    return Encoded(codes, outliers, scale * correction.where(product > 0, 1), norm)


def decode_unit(encoded: Encoded, encoding: str, outlier_dims: np.ndarray | list[int]) -> Tensor:
    """Unit vectors float32 [n, D], up to rounding, on the device of the codes (numpy arrays: on the CPU).

    ValueError for a fill code, that is, a row that was never written (the message names the row).
    """
    import torch

    check_encoding(encoding)
    if isinstance(encoded.codes, np.ndarray):
        encoded = encoded.torch()
    codes = encoded.codes
    if encoding == "float8_e4m3fn":
        values = codes.view(torch.float8_e4m3fn).float()
        fill = values.isnan()
    elif encoding == "int8":
        values = codes.float() - 128
        fill = codes == 0
    else:
        values = codes.float()
        fill = ~values.isfinite()
    bad = fill.any(dim=1) | ~encoded.scale.isfinite() | ~encoded.outliers.isfinite().all(dim=1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise ValueError(f"row {row} holds fill values (NaN): it was never written; {int(bad.sum())} such rows")
    unit = values * encoded.scale[:, None].float()
    dims = torch.as_tensor(np.asarray(outlier_dims, dtype=np.int64), device=codes.device)
    unit[:, dims] = encoded.outliers.float()
    return unit


def with_more_outliers(encoded: Encoded, encoding: str, dims: np.ndarray, more: np.ndarray) -> Encoded:
    """The same rows, of which `decode_unit` gives the same bits, with more dimensions among the outliers.

    Args:
        encoded: rows with the outlier dimensions `dims`, as numpy arrays.
        encoding: of the codes.
        dims: int [K] ascending.
        more: int [M] ascending; all of `dims`, and others.

    """
    if np.array_equal(dims, more):
        return encoded
    moved = np.setdiff1d(more, dims)
    none = np.zeros((len(encoded), 0), np.float32)
    columns = Encoded(encoded.codes[:, moved], none, encoded.scale, encoded.norm)
    outliers = np.empty((len(encoded), len(more)), np.float32)
    outliers[:, np.searchsorted(more, dims)] = encoded.outliers
    outliers[:, np.searchsorted(more, moved)] = decode_unit(columns, encoding, []).numpy()
    codes = encoded.codes.copy()
    codes[:, moved] = 128 if encoding == "int8" else 0
    return Encoded(codes, outliers, encoded.scale, encoded.norm)


def fill_in(name: str, part: np.ndarray, encoding: str) -> str:
    """An error message if the array ``name`` of an `Encoded` holds fill values, else "".

    Two reductions over the bits without temporary arrays, because every byte that is read passes here: the bits of
    NaN and infinity are the largest ones of the positive and of the negative numbers.
    """
    if part.size == 0:
        return ""
    if part.dtype == np.uint8:
        import torch

        # It reduces bytes several times faster than numpy.
        codes = torch.from_numpy(part)
        if encoding == "int8":
            found = int(codes.amin()) == 0
        else:
            found = int(codes.view(torch.int8).amax()) == 0x7F or int(codes.amax()) == 0xFF
    else:
        signed, unsigned, least = _NOT_FINITE[part.dtype.itemsize]
        found = part.view(signed).max() >= least or part.view(unsigned).max() >= least + (np.iinfo(signed).max + 1)
    return f"{name} holds fill values (NaN)" if found else ""


# By bytes per number: integer types, and the bits of the smallest positive value that is not finite.
_NOT_FINITE: dict[int, tuple[type, type, int]] = {
    2: (np.int16, np.uint16, 0x7C00),
    4: (np.int32, np.uint32, 0x7F800000),
}


def fill_among(encoded: Encoded, encoding: str) -> str:
    """An error message if encoded rows (numpy) hold fill values, else ""."""
    return next(filter(None, (fill_in(name, getattr(encoded, name), encoding) for name in PARTS)), "")
