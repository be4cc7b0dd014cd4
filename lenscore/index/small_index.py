"""Some layers that are small enough to be kept in float32 too: all scores at once, then the best ones exactly.

The same results as those of `exact_search`, whose pruning costs more than it saves where all rows fit into a few dozen
megabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lenscore.index.error_bounds import exact_scores
from lenscore.index.exact_search import require_finite_queries
from lenscore.index.quantized_layer import QuantizedLayer
from lenscore.index.topk import TopK
from storage_layouts.quantize import PARTS, Encoded

LARGEST = 2**24
"""Numbers in the rows of all layers: 64 MB in float32."""

FEW_PRODUCTS = 2**30
"""Multiplications of a search up to which it is faster in float32 than a pruned one in half precision."""

NEARLY_EQUAL = 4
"""Rows beyond the k best that are looked at first: rounding may hide that they are among them."""


@dataclass(frozen=True)
class SmallIndex:
    """The rows of some layers that a search may find, ordered by layer, then row.

    Attributes:
        layer, row: int64 [R], where each comes from.
        units: float32 [R, D], decoded.
        codes: the same rows in their encoding; those of all layers after one another.
        outlier_dims: int64 [R, K], those of each row's layer.
        error_bound: of a product of a query and a row in float32, as its distance from the exact score.

    """

    layer: Tensor
    row: Tensor
    units: Tensor
    codes: QuantizedLayer
    outlier_dims: Tensor
    error_bound: float

    @classmethod
    def of(cls, layers: Sequence[tuple[int, QuantizedLayer]]) -> SmallIndex | None:
        """The rows of layers on a CPU; None if they are too large, or of several encodings.

        Raises ValueError for a row that holds fill values.
        """
        alike = {(codes.encoding, len(codes.outlier_dims)) for _, codes in layers}
        if len(alike) > 1 or sum(len(codes) * codes.dim for _, codes in layers) > LARGEST:
            return None
        rows, encoded = [], []
        for _, codes in layers:
            found = torch.ones(len(codes), dtype=torch.bool)
            found[torch.from_numpy(codes.excluded)] = False
            rows.append(found.nonzero().squeeze(1))
            encoded.append([getattr(codes.encoded, name)[rows[-1]] for name in PARTS])
        units = torch.cat([codes.decoded(0, len(codes))[kept] for (_, codes), kept in zip(layers, rows, strict=True)])
        whole = Encoded(*map(torch.cat, zip(*encoded, strict=True)))
        dims = [torch.as_tensor(codes.outlier_dims, dtype=torch.int64) for _, codes in layers]
        return cls(
            torch.cat([torch.full_like(kept, layer) for (layer, _), kept in zip(layers, rows, strict=True)]),
            torch.cat(rows),
            units,
            QuantizedLayer(whole, layers[0][1].encoding, layers[0][1].outlier_dims),
            torch.cat([one.expand(len(kept), -1) for one, kept in zip(dims, rows, strict=True)]),
            _error_bound(units),
        )

    def top(self, units: Tensor, k: int) -> TopK | None:
        """As `exact_search.top_rows` of these layers; None if that is faster: many queries, or scores nearly equal.

        `units` float64 [n, D] have length 1; there are at least k rows. Raises ValueError if a query is not finite.
        """
        rows = len(self.row)
        if len(units) * self.units.numel() > FEW_PRODUCTS:
            return None
        require_finite_queries(units)
        approximate = units.float() @ self.units.T
        count = min(k + NEARLY_EQUAL, rows)
        best, columns = torch.topk(approximate, count, dim=1)
        least = best[:, k - 1 : k] - 2 * self.error_bound
        if count < rows and bool((best[:, -1:] >= least).any()):  # perhaps more rows than these
            count = int((approximate >= least).sum(dim=1).amax())
            if count > max(k, rows // 8):
                return None
            best, columns = torch.topk(approximate, count, dim=1)
        possible = best >= least
        query, column = possible.nonzero()[:, 0], columns[possible]
        outliers = units[query[:, None], self.outlier_dims[column]]
        scores = torch.full_like(best, -torch.inf)
        scores[possible] = exact_scores(self.codes, units, outliers, query, column)
        # Columns are in the order of layers and rows, which decides between equal scores.
        columns, order = columns.sort(dim=1)
        scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
        columns = columns.gather(1, order[:, :k])
        return TopK(self.row[columns].int(), scores[:, :k].contiguous(), self.layer[columns].to(torch.int16))


def _error_bound(units: Tensor) -> float:
    """The largest error of a product in float32 of one of these rows c with a query of length 1.

    Summing D products costs at most D 2^-24 |c|; the rounding of the query, of the row and of the exact score to
    float32 costs 2^-24 |c| each.
    """
    longest = float(torch.linalg.vector_norm(units, dim=1).amax())
    return 1.01 * (units.shape[1] + 4) * 2.0**-24 * longest
