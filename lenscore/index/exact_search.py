"""Exact nearest rows at the speed of half-precision products: approximate scores, pruning by a proven error bound.

A block of rows is multiplied with the queries in 16 bits. A row whose approximate score is below the k-th best by more
than the error bound (`error_bounds`) cannot be among the k best; most rows are pruned in groups, by the largest score
of each group. The others are scored again in float64. So results do not depend on blocks or devices: a score is the
float64 cosine of query and stored row, rounded to float32, and equal scores are ordered by layer, then row.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lenscore.index.error_bounds import EXACT_NUMBERS, Block, LayerQueries, scan_dtype
from lenscore.index.quantized_layer import Buffers, QuantizedLayer
from lenscore.index.single_threaded import on_own_threads
from lenscore.index.topk import TopK, top_of_block

QUERIES = {"cpu": 256, "cuda": 1024}
"""Queries that are multiplied with a block of rows at a time, by device: their scores stay in the cache of a CPU."""

QUERIES_TOGETHER = 8192
"""Queries for which a block of rows is decoded once."""

BLOCK = {"cpu": (2**21, 2**13), "cuda": (2**28, 2**17)}
"""Largest size of a block, in numbers and in rows, by device; with `QUERIES` it bounds the memory (cuda: 2 GB)."""

GROUP = 64
"""Rows that are pruned together, by their largest score."""

DENSE = 1 / 32
"""Above this share of candidates in a block, exact scores of the whole block are cheaper than of single candidates."""

MOST_PENDING = 2**20
"""Candidates of all queries together that are kept without exact scores."""

CANDIDATES_PER_TASK = 4096
"""Candidates whose exact scores one thread computes at a time."""


def unit_rows(states: Tensor) -> Tensor:
    """States [n, dim] of any float dtype divided by their lengths, float64; NaN where a state is zero or not finite."""
    wide = states.double()
    wide = wide / wide.abs().amax(dim=1, keepdim=True)  # squares of very large or small numbers would leave float64
    return wide / torch.linalg.vector_norm(wide, dim=1, keepdim=True)


def require_finite_queries(units: Tensor, first: int = 0) -> None:
    """Raises ValueError with the first query of `unit_rows` that is not finite; `first` is the number of query 0."""
    if not bool(units.sum().isfinite()):
        query = first + int((~units.isfinite().all(dim=1)).nonzero()[0, 0])
        raise ValueError(f"contextual search: query {query} is zero, or not finite (NaN or infinity); expected numbers")


def top_rows(queries: Tensor, batches: Iterable[Sequence[tuple[int, QuantizedLayer]]], k: int) -> TopK:
    """The k nearest rows of every query, over all layers.

    Args:
        queries: [n, dim], any float dtype; they are normalised.
        batches: layers, or ranges of their rows, on the device of the queries; those of a batch are searched at once.
            A batch need not be in memory before and after its turn.
        k: at most the number of rows in all that a search may find.

    Raises:
        ValueError: if a query is zero or not finite, or a row holds fill values.

    """
    at_a_time = QUERIES[queries.device.type]
    for number, some in enumerate(queries.split(at_a_time)):
        require_finite_queries(unit_rows(some), number * at_a_time)
    chunks = queries.split(QUERIES_TOGETHER)
    groups = [[_Search(len(some), k, queries.device) for some in chunk.split(at_a_time)] for chunk in chunks]
    for batch in batches:
        for chunk, searches in zip(chunks, groups, strict=True):
            _scan(batch, searches, [unit_rows(some) for some in chunk.split(at_a_time)])
    return TopK.concatenate([search.best() for searches in groups for search in searches], dim=0)


def _scan(layers: Sequence[tuple[int, QuantizedLayer]], searches: list[_Search], units: Sequence[Tensor]) -> None:
    """Update the searches, whose queries are `units`, with all rows of some layers."""
    device, threads = units[0].device, _threads(units[0].device)
    tasks: list[tuple[QuantizedLayer, int, list[LayerQueries]]] = []
    for layer, codes in layers:
        per_search = [LayerQueries(some, layer, codes) for some in units]
        tasks += [(codes, first, per_search) for first in range(0, len(codes), _block_rows(codes))]

    def work(tasks: Iterable[tuple[QuantizedLayer, int, list[LayerQueries]]]) -> None:
        buffers = Buffers(device)
        for codes, first, per_search in tasks:
            block = Block.of(codes, first, min(first + _block_rows(codes), len(codes)), buffers)
            for search, queries in zip(searches, per_search, strict=True):
                search.update(queries, block, buffers)
                if search.pending_rows > MOST_PENDING // len(searches):
                    search.finalise(threads=1)

    on_own_threads(work, tasks, threads)
    for search in searches:
        search.finalise(threads)


def _block_rows(codes: QuantizedLayer) -> int:
    numbers, most = BLOCK[codes.device.type]
    if codes.encoded.codes.dtype == scan_dtype(codes.device):
        numbers *= 2  # multiplied as they are, they need no memory beside their own
    rows = max(GROUP, min(numbers // codes.dim, most))
    return codes.row_step if rows // 4 <= codes.row_step < rows else rows  # rows of several pieces are copied


def _threads(device: torch.device) -> int:
    return torch.get_num_threads() if device.type == "cpu" else 1


class _Candidates(NamedTuple):
    """Rows that may be among the best of a query: four tensors [m] with any number of rows for each query.

    `query`, `layer` and `row` int64, `score` float32.
    """

    query: Tensor
    layer: Tensor
    row: Tensor
    score: Tensor

    def best(self, k: int, queries: int) -> tuple[_Candidates, Tensor]:
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
        return _Candidates(*(part[kept] for part in self)), worst


class _Search:
    """The k best rows of some queries, updated with one block of rows after another, by several threads."""

    def __init__(self, queries: int, k: int, device: torch.device) -> None:
        self.queries, self.k = queries, k
        # For every query: the largest lower bounds of scores of different rows, and the k-th of them.
        self.lower_bounds = torch.empty((0, queries), device=device)
        self.threshold = torch.full((queries,), -torch.inf, device=device)
        # Candidates without exact scores: query, row, upper bound of the score.
        self.pending: list[tuple[LayerQueries, Tensor, Tensor, Tensor]] = []
        self.pending_rows = 0
        none = torch.empty(0, dtype=torch.int64, device=device)
        self.scored = _Candidates(none, none, none, none.float())
        self.lock = threading.Lock()  # for the five attributes above

    def update(self, layer: LayerQueries, block: Block, buffers: Buffers) -> None:
        """Collect the rows of a block that may be among the k best."""
        scores = layer.approximate(block, buffers, GROUP)
        best = scores.amax(dim=1)
        error_bound = layer.error_bound(best)
        self._raise_threshold(best - error_bound)
        threshold = self.threshold
        group, query = (best + error_bound >= threshold).nonzero(as_tuple=True)
        if len(group) * GROUP * 4 > scores.numel():
            self._score_all(layer, block)
            return
        inside = scores[group, :, query].T  # [rows of a group, hits]
        most = inside + layer.error_bound(inside, query)
        place, hit = ((most >= threshold[query]) & (most > -torch.inf)).nonzero(as_tuple=True)
        if len(hit) > scores.numel() * DENSE:
            self._score_all(layer, block)
            return
        with self.lock:
            self.pending.append((layer, query[hit], block.first + group[hit] * GROUP + place, most[place, hit]))
            self.pending_rows += len(hit)

    def _raise_threshold(self, least: Tensor) -> None:
        """Take lower bounds [m, n] of the scores of different rows into account."""
        with self.lock:
            together = torch.cat([self.lower_bounds, least])
            self.lower_bounds = torch.topk(together, min(self.k, len(together)), dim=0).values
            if len(self.lower_bounds) == self.k:
                self.threshold = torch.maximum(self.threshold, self.lower_bounds[-1])

    def _score_all(self, layer: LayerQueries, block: Block) -> None:
        """Exact scores of a block with too many candidates: many equal rows, or a large k."""
        step = max(1, EXACT_NUMBERS // layer.codes.dim)
        for first in range(block.first, block.stop, step):
            scores = layer.exact_block(first, min(first + step, block.stop))
            top = top_of_block(scores, self.k, first)
            query = torch.arange(self.queries, device=top.ids.device)[:, None].expand_as(top.ids)
            self._add(layer, query.flatten(), top.ids.flatten().long(), top.scores.flatten())

    def finalise(self, threads: int) -> None:
        """Exact scores of all collected candidates that may still be among the best."""
        tasks: list[tuple[LayerQueries, Tensor, Tensor]] = []
        with self.lock:
            for layer in dict.fromkeys(now for now, _, _, _ in self.pending):
                parts = [part for now, *part in self.pending if now is layer]
                query, row, most = (torch.cat(part) for part in zip(*parts, strict=True))
                possible = most >= self.threshold[query]
                pieces = (query[possible].split(CANDIDATES_PER_TASK), row[possible].split(CANDIDATES_PER_TASK))
                tasks.extend((layer, some, rows) for some, rows in zip(*pieces, strict=True))
            self.pending, self.pending_rows = [], 0

        def work(tasks: Iterable[tuple[LayerQueries, Tensor, Tensor]]) -> None:
            for layer, query, row in tasks:
                self._add(layer, query, row, layer.exact(query, row))

        on_own_threads(work, tasks, threads)

    def _add(self, layer: LayerQueries, query: Tensor, row: Tensor, score: Tensor) -> None:
        """Merge candidates with exact scores, counted from the first row of their range, into the best."""
        more = (query, torch.full_like(row, layer.layer), row + layer.codes.first, score)
        with self.lock:
            both = _Candidates(*map(torch.cat, zip(self.scored, more, strict=True)))
            self.scored, worst = both.best(self.k, self.queries)
            self.threshold = torch.maximum(self.threshold, worst)

    def best(self) -> TopK:
        """The k best of every query. After `finalise`."""
        _, layer, row, score = (part.reshape(self.queries, self.k) for part in self.scored)
        return TopK(row.int(), score, layer.to(torch.int16))
