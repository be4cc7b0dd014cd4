"""Candidates of many queries in one flat list, with any number of candidates for each query."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Candidates(NamedTuple):
    """Rows that may be among the best of a query; four tensors [m] on one device.

    `query`, `layer` and `row` int64, `score` float32.
    """

    query: Tensor
    layer: Tensor
    row: Tensor
    score: Tensor

    def best(self, k: int, queries: int) -> tuple[Candidates, Tensor]:
        """At most k candidates of each query: score descending, then layer, then row ascending; sorted by query.

        Also returns the k-th score of each query, float32 [queries]; -inf if there are fewer.
        """
        order = torch.argsort(self.row, stable=True)
        for key, descending in ((self.layer, False), (self.score, True), (self.query, False)):
            order = order[torch.argsort(key[order], stable=True, descending=descending)]
        query = self.query[order]
        counts = torch.bincount(query, minlength=queries)
        starts = torch.cumsum(counts, 0) - counts
        rank = torch.arange(len(query), device=query.device) - starts[query]
        worst = torch.full((queries,), -torch.inf, device=query.device)
        kept, last = order[rank < k], order[rank == k - 1]
        worst[self.query[last]] = self.score[last]
        return Candidates(*(part[kept] for part in self)), worst
