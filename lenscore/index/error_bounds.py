"""Approximate scores of a block of rows from products in half precision, their error bound, and exact scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lenscore.index.quantized_layer import Buffers, QuantizedLayer, code_values, shrinks
from lenscore.models.weights import cpu_multiplies_bfloat16

EXACT_NUMBERS = 2**20
"""Size of the rows that are scored exactly at a time, in numbers."""


SHRUNK, ENLARGED = 2.0**120, 2.0**100
"""By how much codes may be smaller than their values (see `shrinks`), and queries larger, so that no product is 0."""


def scan_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which a device multiplies fastest: half precision if the hardware supports it, else float32."""
    if device.type == "cuda":
        # torch 2.8 added products of float16 with results in float32; results in float16 would violate the bound.
        return torch.float16 if hasattr(torch.ops.aten.mm, "dtype") else torch.float32
    return torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32


def half_product(left: Tensor, right: Tensor) -> Tensor:
    """The product of float16 matrices on a CUDA device, summed and returned in float32."""
    return torch.mm(left, right, out_dtype=torch.float32)


def exact_scores(codes: QuantizedLayer, units: Tensor, outliers: Tensor, query: Tensor, row: Tensor) -> Tensor:
    """The scores of single queries [m] with single rows [m] of a layer, float32 [m], summed in float64.

    `units` float64 [n, dim] are all queries; `outliers` float64 [m, K] the outlier dimensions of each of the m.
    """
    step = max(1, EXACT_NUMBERS // codes.dim)
    scores = []
    for first in range(0, max(1, len(row)), step):
        some = slice(first, first + step)
        values, scale, stored = codes.exact(row[some])
        coded = values.mul_(units[query[some]]).sum(dim=1).mul_(scale)
        scores.append((coded + (stored * outliers[some]).sum(dim=1)).float())
    return torch.cat(scores)


@dataclass(frozen=True)
class Block:
    """Rows of a layer from `first` on: the codes as numbers [r, dim], scale [r, 1], outliers [r, K].

    If the codes are shrunk, the scale is that of their products with enlarged queries.
    """

    first: int
    values: Tensor
    scale: Tensor
    outliers: Tensor

    @classmethod
    def of(cls, codes: QuantizedLayer, first: int, stop: int, buffers: Buffers) -> Block:
        """Some rows of a layer, decoded for multiplication on their device, into the buffers."""
        e, rows = codes.encoded, slice(first, stop)
        dtype = scan_dtype(codes.device)
        shrunk = shrinks(codes.encoding, dtype, codes.device)
        values = code_values(e.codes[rows], codes.encoding, dtype, buffers.get, shrunk)
        scale = e.scale[rows, None].float() * (SHRUNK / ENLARGED if shrunk else 1)
        return cls(first, values, scale, e.outliers[rows].float())

    @property
    def stop(self) -> int:
        """One more than the last row."""
        return self.first + len(self.values)


class LayerQueries:
    """Queries without the outlier dimensions of one layer, rounded; `units` float64 [n, dim], of length 1."""

    def __init__(self, units: Tensor, layer: int, codes: QuantizedLayer) -> None:
        self.layer, self.codes, self._units = layer, codes, units
        dims = torch.as_tensor(np.asarray(codes.outlier_dims, dtype=np.int64), device=units.device)
        self._outliers = units[:, dims]
        rest = units.index_fill(1, dims, 0.0)  # where the codes have zeros
        self._approximate = rest.to(scan_dtype(units.device))
        self._shrunk = shrinks(codes.encoding, self._approximate.dtype, units.device)
        self._measure(rest)
        self._factors = self._approximate * ENLARGED if self._shrunk else self._approximate

    def _measure(self, rest: Tensor) -> None:
        """Terms of the error of approximate scores, including the rounding of the exact score to float32.

        With q the query without the outlier dimensions, p its rounded copy, and c the row, of length at most
        `max_norm`: |q c - p c| <= |q - p| |c| (Cauchy-Schwarz); summing D products in float32 costs at most D 2^-24 |p|
        |c|; rounding wider codes to bfloat16 2^-8 |p| |c|, to float16 2^-11 (and 2^-25 for each subnormal number); and
        rounding p c to bfloat16 2^-8 |p c|, where |p c| is at most |p| |c| and differs from the score by at most the
        share of the outlier dimensions. Scaling and these K dimensions are K + 4 operations in float32 with numbers of
        at most 1. Instructions for bfloat16 take subnormal numbers for 0: of shrunk codes those whose values are below
        2^-6, which all together are at most D^0.5 2^-6 |p| times the scale.
        """
        lost = torch.linalg.vector_norm(rest - self._approximate.double(), dim=1)
        length = torch.linalg.vector_norm(self._approximate.double(), dim=1)
        shares = self.codes.dim * 2.0**-24
        if self.codes.encoded.codes.is_floating_point():
            shares += {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}.get(self._approximate.dtype, 0.0)
        arithmetic = (self._outliers.shape[1] + 8) * 2.0**-23 + self.codes.dim**0.5 * 2.0**-24
        if self._shrunk:
            smallest = self.codes.dim**0.5 * 2.0**-6 * float(self.codes.encoded.scale.max())
            arithmetic = arithmetic + 1.01 * smallest * length
        self._constant_error = ((lost + 1.01 * shares * length) * self.codes.max_norm + arithmetic).float()
        self._relative_error = 1.01 * 2.0**-8 if self._approximate.dtype == torch.bfloat16 else 0.0
        self._max_score = (length * self.codes.max_norm).float() * 1.01
        self._outlier_norm = torch.linalg.vector_norm(self._outliers, dim=1).float() * 1.01

    def error_bound(self, scores: Tensor, query: Tensor | slice = slice(None)) -> Tensor:
        """Upper bound of the error of approximate scores [..., m] of the queries [m]: float32 [..., m] or [m].

        In float32 and float16 it does not depend on the score.
        """
        if not self._relative_error:
            return self._constant_error[query]
        rest = torch.minimum(scores.abs() + self._outlier_norm[query], self._max_score[query])
        return rest.mul_(self._relative_error).add_(self._constant_error[query])

    def approximate(self, block: Block, buffers: Buffers, group: int) -> Tensor:
        """Scores float32 [groups, group, n] of a block, -inf for excluded rows and after the last; in the buffers."""
        rows, n = len(block.values), len(self._approximate)
        groups = -(-rows // group)
        scores = buffers.get("scores", torch.float32, groups * group, n)
        if self._approximate.dtype == torch.float16:
            scores[:rows].copy_(half_product(block.values, self._factors.T))
        elif self._approximate.dtype == torch.bfloat16:
            product = torch.mm(block.values, self._factors.T, out=buffers.get("product", torch.bfloat16, rows, n))
            scores[:rows].copy_(product)  # multiplying the product by a float32 scale takes three times as long
        else:
            torch.mm(block.values, self._factors.T, out=scores[:rows])
        scores[:rows].mul_(block.scale).addmm_(block.outliers, self._outliers.float().T)
        scores[rows:] = -torch.inf
        if len(self.codes.excluded):
            scores[self.codes.excluded_within(block.first, block.stop)] = -torch.inf
        return scores.view(groups, group, n)

    def exact(self, query: Tensor, row: Tensor) -> Tensor:
        """The scores of single queries [m] with single rows [m], float32 [m], summed in float64."""
        return exact_scores(self.codes, self._units, self._outliers[query], query, row)

    def exact_block(self, first: int, stop: int) -> Tensor:
        """The scores of all queries with some rows, float32 [n, stop - first], summed in float64; -inf if excluded."""
        values, scale, outliers = self.codes.exact(slice(first, stop))
        scores = (self._units @ values.T).mul_(scale).addmm_(self._outliers, outliers.T).float()
        scores[:, self.codes.excluded_within(first, stop)] = -torch.inf
        return scores
