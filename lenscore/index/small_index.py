"""Some layers that are small enough to be kept in float32 too: all scores at once, then the best ones exactly.

The same results as those of `exact_search`, whose pruning costs more than it saves where all rows fit into a few dozen
megabytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lenscore.index.error_bounds import exact_scores, scan_dtype
from lenscore.index.exact_search import require_finite_queries
from lenscore.index.quantized_layer import QuantizedLayer
from lenscore.index.single_threaded import on_own_threads
from lenscore.index.topk import TopK
from storage_layouts.quantize import PARTS, Encoded

LARGEST = 2**24
"""Numbers in the rows of all layers: 64 MB in float32."""

FEW_PRODUCTS = 3 * 2**27
"""Multiplications of a search up to which it is faster in float32 than a pruned one in bfloat16, on CPUs that have it.
"""

SCORES, QUERIES = 2**23, 64
"""Scores that are computed at a time, of a multiple of so many queries: they stay in the cache of a CPU."""

GROUP = 64
"""Rows whose largest score is found first."""

NEARLY_EQUAL = 4
"""Rows beyond the k best that are looked at first: rounding may hide that they are among them."""


@dataclass(frozen=True)
class SmallIndex:
    """The rows of some layers that a search may find, ordered by layer, then row.

    Attributes:
        layer, row: int16 [R] and int32 [R], where each comes from.
        units: float32 [R, D], decoded.
        halves: the same in float16, for a single query, whose product takes the time of reading the rows; None if this
            CPU does not multiply them well.
        codes: the same rows in their encoding; those of all layers after one another.
        outlier_dims: int64 [R, K], those of each row's layer.
        error_bound: of a product of a query and a row in float32, as its distance from the exact score.
        half_error_bound: of a product in float16.

    """

    layer: np.ndarray
    row: np.ndarray
    units: Tensor
    halves: Tensor | None
    codes: QuantizedLayer
    outlier_dims: Tensor
    error_bound: float
    half_error_bound: float

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
        longest = float(torch.linalg.vector_norm(units, dim=1).amax())
        whole = Encoded(*map(torch.cat, zip(*encoded, strict=True)))
        dims = [torch.as_tensor(codes.outlier_dims, dtype=torch.int64) for _, codes in layers]
        return cls(
            np.repeat(np.array([layer for layer, _ in layers], np.int16), [len(kept) for kept in rows]),
            torch.cat(rows).int().numpy(),
            units,
            units.half() if longest < 2 and _multiplies_halves() else None,
            QuantizedLayer(whole, layers[0][1].encoding, layers[0][1].outlier_dims),
            torch.cat([one.expand(len(kept), -1) for one, kept in zip(dims, rows, strict=True)]),
            _error_bound(units.shape[1], longest),
            _half_error_bound(units.shape[1], longest),
        )

    def top(self, units: Tensor, k: int) -> TopK | None:
        """As `exact_search.top_rows` of these layers; None if that is faster: many queries, or scores nearly equal.

        `units` float64 [n, D] have length 1; there are at least k rows. Raises ValueError if a query is not finite.
        """
        if len(units) * self.units.numel() > FEW_PRODUCTS and scan_dtype(units.device) != torch.float32:
            return None
        require_finite_queries(units)
        rows = len(self.row)
        at_a_time = max(QUERIES, SCORES // rows // QUERIES * QUERIES)
        if len(units) <= at_a_time:
            return self._top(units, k, torch.empty(rows * len(units)))
        chunks = units.split(at_a_time)
        found: dict[int, TopK | None] = {}

        def work(tasks: Iterable[tuple[int, Tensor]]) -> None:
            memory = torch.empty(rows * at_a_time)  # new pages would cost as much time as writing to them
            found.update((number, self._top(some, k, memory)) for number, some in tasks)

        on_own_threads(work, list(enumerate(chunks)), torch.get_num_threads())
        parts = [part for _, part in sorted(found.items()) if part is not None]
        return TopK.concatenate(parts, dim=0) if len(parts) == len(chunks) else None

    def _top(self, units: Tensor, k: int, memory: Tensor) -> TopK | None:
        rows = len(self.row)
        if len(units) == 1 and self.halves is not None:
            approximate, error_bound = (self.halves @ units[0].half())[:, None], self.half_error_bound
        else:
            approximate = memory[: rows * len(units)].view(rows, len(units))
            torch.mm(self.units, units.float().T, out=approximate)
            error_bound = self.error_bound
        count = min(k + NEARLY_EQUAL, rows)
        best, columns = _largest(approximate, count)
        least = best[:, k - 1 : k] - 2 * error_bound
        if count < rows and (best[:, -1:] >= least).any():  # perhaps more rows than these
            count = int((approximate >= torch.from_numpy(least.T)).sum(dim=0).amax())
            if count > max(k, rows // 8):
                return None
            best, columns = _largest(approximate, count)
        possible = best >= least
        query, column = torch.from_numpy(possible.nonzero()[0]), torch.from_numpy(columns[possible])
        outliers = units[query[:, None], self.outlier_dims[column]]
        scores = np.full_like(best, -np.inf)
        scores[possible] = exact_scores(self.codes, units, outliers, query, column).numpy()
        # Columns are in the order of layers and rows, which decides between equal scores.
        order = np.lexsort((columns, -scores))[:, :k]
        columns, scores = np.take_along_axis(columns, order, 1), np.take_along_axis(scores, order, 1)
        return TopK(*map(torch.from_numpy, (self.row[columns], scores, self.layer[columns])))


def _largest(scores: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest of scores [rows, n] of each query and their rows [n, count], in numpy, which is faster with few."""
    groups, queries = len(scores) // GROUP, scores.shape[1]
    if groups < 4 * count or queries == 1:
        values, rows = torch.topk(scores.T, count, dim=1)
        return values.float().numpy(), rows.numpy()
    # The largest scores are in the groups with the largest ones, or after the last whole group.
    grouped = scores[: groups * GROUP].view(groups, GROUP, queries)
    chosen = torch.topk(grouped.amax(dim=1).T.contiguous(), count, dim=1).indices
    inside = grouped[chosen, :, torch.arange(queries)[:, None]].flatten(1)
    values, places = torch.topk(torch.cat([inside, scores[groups * GROUP :].T], dim=1), count, dim=1)
    group = places // GROUP
    first = torch.cat([chosen, chosen.new_full((queries, 1), groups)], dim=1).sub_(torch.arange(count + 1)) * GROUP
    return values.numpy(), (places + first.gather(1, group)).numpy()


def _error_bound(dim: int, longest: float) -> float:
    """The largest error of a product in float32 of a row c, of length at most `longest`, with a query of length 1.

    Summing D products costs at most D 2^-24 |c|; the rounding of the query, of the row and of the exact score to
    float32 costs 2^-24 |c| each.
    """
    return 1.01 * (dim + 4) * 2.0**-24 * longest


def _half_error_bound(dim: int, longest: float) -> float:
    """The same for a product in float16 that is summed in float32.

    The rounding of the query, of the row and of the product to float16 costs 2^-11 |c| each, and 2^-25 for each of
    their numbers that is subnormal.
    """
    subnormal = (dim**0.5 * (1 + longest) + 1) * 2.0**-25
    return _error_bound(dim, longest) + 1.01 * (3 * 2.0**-11 * longest + subnormal)


def _multiplies_halves() -> bool:
    """Whether torch multiplies a matrix with a vector in float16 fast here, and sums in float32.

    In float16, 2048 + 1 is 2048.
    """
    numbers = torch.ones(64, 1025, dtype=torch.float16)
    numbers[:, 0] = 2048
    fast = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return fast and bool((numbers @ numbers[0].clamp(max=1) == 2048 + 1024).all())
