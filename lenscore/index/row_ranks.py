"""The best of some rows, and its rank among all rows: scores of every row, exact as those of `exact_search`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lenscore.index.error_bounds import EXACT_NUMBERS, LayerQueries
from lenscore.index.quantized_layer import QuantizedLayer
from lenscore.index.topk import count_above

Layers = Callable[[], Iterable[tuple[int, QuantizedLayer]]]
"""Gives the layers to search, or ranges of their rows in order, each on its device, layers ascending; called twice."""

QUERIES = 1024
"""Queries whose ranks are found in one pass over the rows."""


def best_rows(units: Tensor, layers: Layers, words: Sequence[Mapping[int, Sequence[int]]]) -> tuple[Tensor, ...]:
    """Score, rank and contextual layer of the best row of each word: float32, int64 and int16 [words, n].

    The rank is 1 + the number of rows, over all layers, with a higher score. `units` float64 [n, dim] have length 1
    each; `words` has the rows of each word by layer, with at least one that a search may find. All scores are products
    in float64 of the same blocks, so a row never outranks itself.
    """
    scores = units.new_full((len(words), len(units)), -torch.inf, dtype=torch.float32)
    contexts = units.new_full(scores.shape, -1, dtype=torch.int16)
    for layer, codes in layers():
        queries, step = LayerQueries(units.to(codes.device), layer, codes), _block_rows(codes)
        asked = [torch.tensor(sorted(rows.get(layer, ())), dtype=torch.int64) - codes.first for rows in words]
        asked = [rows[(rows >= 0) & (rows < len(codes))] for rows in asked]
        for first in sorted({int(row) // step * step for rows in asked for row in rows}):
            found = queries.exact_block(first, min(first + step, len(codes)))
            for number, rows in enumerate(asked):
                inside = rows[(rows >= first) & (rows < first + step)] - first
                if len(inside):
                    best = found[:, inside.to(found.device)].amax(dim=1).to(scores.device)
                    contexts[number] = torch.where(best > scores[number], layer, contexts[number].int()).short()
                    scores[number] = torch.maximum(scores[number], best)
    above = torch.zeros_like(scores, dtype=torch.int64)
    for layer, codes in layers():
        queries, step = LayerQueries(units.to(codes.device), layer, codes), _block_rows(codes)
        here = scores.to(codes.device)
        for first in range(0, len(codes), step):
            found = queries.exact_block(first, min(first + step, len(codes)))
            above += count_above(found, here).to(above.device)
    return scores, above + 1, contexts


def _block_rows(codes: QuantizedLayer) -> int:
    return max(1, EXACT_NUMBERS // codes.dim)
