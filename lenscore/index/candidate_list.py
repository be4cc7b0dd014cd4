"""Candidates of many queries in one flat list, as many of each query as there happen to be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lenscore.index.topk import TopK


@dataclass(frozen=True)
class Candidates:
    """Rows that may be among the best of a query; four tensors [m] on one device.

    `query`, `layer` and `row` int64, `score` float32.
    """

    query: Tensor
    layer: Tensor
    row: Tensor
    score: Tensor

    @classmethod
    def none(cls, device: torch.device) -> Candidates:
        """An empty list."""
        number = torch.empty(0, dtype=torch.int64, device=device)
        return cls(number, number, number, torch.empty(0, device=device))

    def with_more(self, query: Tensor, layer: Tensor, row: Tensor, score: Tensor) -> Candidates:
        """The candidates of this list and more."""
        return Candidates(
            torch.cat([self.query, query]),
            torch.cat([self.layer, layer]),
            torch.cat([self.row, row]),
            torch.cat([self.score, score]),
        )

    def best(self, k: int, queries: int) -> tuple[Candidates, Tensor]:
        """At most k candidates of each query: score descending, then layer, then row ascending; sorted by query.

        Also the k-th score of each query, float32 [queries]; -inf where there are fewer.
        """
        order = torch.argsort(self.row, stable=True)
        for key, descending in ((self.layer, False), (self.score, True), (self.query, False)):
            order = order[torch.argsort(key[order], stable=True, descending=descending)]
        query = self.query[order]
        place = torch.arange(len(query), device=query.device) - self._starts(query, queries)[query]
        kept = order[place < k]
        worst = torch.full((queries,), -torch.inf, device=query.device)
        last = order[place == k - 1]
        worst[self.query[last]] = self.score[last]
        return Candidates(self.query[kept], self.layer[kept], self.row[kept], self.score[kept]), worst

    def table(self, k: int, queries: int) -> TopK:
        """The candidates as a TopK [queries, k]. Only after `best`, and with k candidates of each query."""
        if len(self.query) != k * queries:
            raise ValueError(f"{len(self.query)} candidates are not {k} for each of {queries} queries")
        shape = (queries, k)
        return TopK(
            self.row.to(torch.int32).reshape(shape),
            self.score.reshape(shape),
            self.layer.to(torch.int16).reshape(shape),
        )

    @staticmethod
    def _starts(query: Tensor, queries: int) -> Tensor:
        counts = torch.bincount(query, minlength=queries)
        return torch.cumsum(counts, 0) - counts
