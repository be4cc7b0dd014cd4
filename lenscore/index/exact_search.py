"""Exact nearest rows at the speed of half-precision products: score roughly, prune by a proven bound, score again.

A block of rows is multiplied with the queries in 16 bits. How far such a score can be from the true one is known
(`error_bounds`). So a row whose approximate score is below the k-th best by more than that cannot be among the k best,
and nearly all rows are left out so, in groups, by the largest score of each group. The few others are scored again in
float64. What is returned therefore depends neither on blocks nor on devices nor on approximate scores: a score is the
float64 cosine of query and stored row, rounded to float32, and equal scores go to the smaller layer, then the smaller
row.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from lenscore.index.candidate_list import Candidates
from lenscore.index.error_bounds import EXACT_NUMBERS, Block, Buffers, LayerQueries
from lenscore.index.quantized_layer import QuantizedLayer
from lenscore.index.single_threaded import on_own_threads
from lenscore.index.topk import TopK, top_of_block

QUERIES = 1024
"""At most this many queries meet a block of rows at a time."""

BLOCK = {"cpu": (2**21, 2**13), "cuda": (2**28, 2**17)}
"""Most numbers and most rows of a block, by device; with `QUERIES` they bound the memory in use (cuda: 2 GB)."""

GROUP = 64
"""Rows whose largest score is looked at before their own."""

DENSE = 1 / 32
"""Above this share of candidates in a block, exact scores of all of it cost less than those of each candidate."""

MOST_WAITING = 2**20
"""Candidates that may wait for their exact scores."""

CANDIDATES_PER_TASK = 4096
"""Of which one thread computes the exact scores at a time."""


def unit_rows(states: Tensor) -> Tensor:
    """States [n, dim] of any float dtype divided by their lengths, float64; NaN where a state is zero or not finite."""
    wide = states.double()
    wide = wide / wide.abs().amax(dim=1, keepdim=True)  # squares of very large or small numbers would leave float64
    return wide / torch.linalg.vector_norm(wide, dim=1, keepdim=True)


def top_rows(units: Tensor, layers: Iterable[tuple[int, QuantizedLayer]], k: int) -> TopK:
    """The k rows nearest to every query over all layers, which come one at a time and lie on the queries' device.

    `units` float64 [n, dim], of length 1 each; together the layers have k rows or more. Raises ValueError if
    a query is not finite (names it) or a row holds fill values.
    """
    bad = ~units.isfinite().all(dim=1)
    if bool(bad.any()):
        query = int(bad.nonzero()[0, 0])
        raise ValueError(f"contextual search: query {query} is zero, or not finite (NaN or infinity); expected numbers")
    searches = [_Search(chunk, k) for chunk in units.split(QUERIES)]
    for batch in _batches(units.device, layers):
        _scan(batch, searches)
        for search in searches:
            search.finalise(_threads(units.device))
    found = [search.best() for search in searches]
    return TopK(
        torch.cat([top.ids for top in found]),
        torch.cat([top.scores for top in found]),
        torch.cat([top.contextual_layers for top in found]),
    )


def _batches(
    device: torch.device, layers: Iterable[tuple[int, QuantizedLayer]]
) -> Iterator[list[tuple[int, QuantizedLayer]]]:
    """Layers to be scanned together.

    On a CUDA device each alone, since the next may need its memory. A CPU has room for all of them, and its
    threads need not wait for each other between two layers.
    """
    if device.type == "cpu":
        yield list(layers)
    else:
        for pair in layers:
            yield [pair]


def _scan(layers: list[tuple[int, QuantizedLayer]], searches: list[_Search]) -> None:
    """Show all rows of some layers to the searches."""
    tasks: deque[tuple[QuantizedLayer, int, list[LayerQueries]]] = deque()
    for layer, codes in layers:
        seen = [LayerQueries(search.units, layer, codes) for search in searches]
        tasks.extend((codes, first, seen) for first in range(0, len(codes), _block_rows(codes)))

    @torch.inference_mode()
    def work() -> None:
        buffers = Buffers(searches[0].units.device)
        with contextlib.suppress(IndexError):  # none left
            while True:
                codes, first, seen = tasks.popleft()
                block = Block.of(codes, first, min(first + _block_rows(codes), len(codes)))
                for search, queries in zip(searches, seen, strict=True):
                    search.update(queries, block, buffers)

    if searches:
        on_own_threads(work, min(_threads(searches[0].units.device), len(tasks)))


def _block_rows(codes: QuantizedLayer) -> int:
    numbers, most = BLOCK[codes.device.type]
    return max(GROUP, min(numbers // codes.dim, most))


def _threads(device: torch.device) -> int:
    return torch.get_num_threads() if device.type == "cpu" else 1


class _Search:
    """The k best rows of some queries, while blocks of rows pass by, on several threads."""

    def __init__(self, units: Tensor, k: int) -> None:
        self.units, self.k = units, k
        # Of every query, the largest scores that different rows are known to reach at least, and the k-th of them.
        self.reached = units.new_empty((0, len(units)), dtype=torch.float32)
        self.bar = units.new_full((len(units),), -torch.inf, dtype=torch.float32)
        # Candidates without exact scores: query, row, the most that it can reach.
        self.waiting: list[tuple[LayerQueries, Tensor, Tensor, Tensor]] = []
        self.scored = Candidates.none(units.device)
        self.lock = threading.Lock()  # for all that changes while threads look at blocks

    def update(self, layer: LayerQueries, block: Block, buffers: Buffers) -> None:
        """Let those rows of a block that may be among the k best wait for their exact scores."""
        scores = layer.approximate(block, buffers, GROUP)
        best = scores.amax(dim=1)
        error_bound = layer.error_bound(best)
        self._raise_bar(best - error_bound)
        bar = self.bar
        group, query = (best + error_bound >= bar).nonzero(as_tuple=True)
        if len(group) * GROUP * 4 > scores.numel():
            self._score_all(layer, block)
            return
        inside = scores[group, :, query].T  # [rows of a group, hits]
        most = inside + layer.error_bound(inside, query)
        place, hit = (most >= bar[query]).nonzero(as_tuple=True)
        if len(hit) > scores.numel() * DENSE:
            self._score_all(layer, block)
            return
        with self.lock:
            self.waiting.append((layer, query[hit], block.first + group[hit] * GROUP + place, most[place, hit]))
            many = sum(len(rows) for _, _, rows, _ in self.waiting) > MOST_WAITING
        if many:
            self.finalise(threads=1)

    def _raise_bar(self, least: Tensor) -> None:
        """Different rows reach the scores `least` [m, n]."""
        with self.lock:
            together = torch.cat([self.reached, least])
            self.reached = torch.topk(together, min(self.k, len(together)), dim=0).values
            if len(self.reached) == self.k:
                self.bar = torch.maximum(self.bar, self.reached[-1])

    def _score_all(self, layer: LayerQueries, block: Block) -> None:
        """Exact scores of a block in which too many rows may be among the best: many equal rows, or a large k."""
        step = max(1, EXACT_NUMBERS // layer.codes.dim)
        for first in range(block.first, block.stop, step):
            scores = layer.exact_block(first, min(first + step, block.stop))
            top = top_of_block(scores, self.k, first)
            query = torch.arange(len(self.units), device=top.ids.device)[:, None].expand_as(top.ids)
            self._add(layer.layer, query.flatten(), top.ids.flatten().long(), top.scores.flatten())

    def finalise(self, threads: int) -> None:
        """Exact scores of all candidates that wait and may still be among the best."""
        tasks: deque[tuple[LayerQueries, Tensor, Tensor]] = deque()
        with self.lock:
            for layer in dict.fromkeys(now for now, _, _, _ in self.waiting):
                parts = [part for now, *part in self.waiting if now is layer]
                query, row, most = (torch.cat(part) for part in zip(*parts, strict=True))
                possible = most >= self.bar[query]
                pieces = (query[possible].split(CANDIDATES_PER_TASK), row[possible].split(CANDIDATES_PER_TASK))
                tasks.extend((layer, some, rows) for some, rows in zip(*pieces, strict=True))
            self.waiting = []

        @torch.inference_mode()
        def work() -> None:
            with contextlib.suppress(IndexError):  # none left
                while True:
                    layer, query, row = tasks.popleft()
                    self._add(layer.layer, query, row, layer.exact(query, row))

        on_own_threads(work, min(threads, len(tasks)))

    def _add(self, layer: int, query: Tensor, row: Tensor, score: Tensor) -> None:
        """Take candidates with exact scores among the best."""
        with self.lock:
            both = self.scored.with_more(query, torch.full_like(row, layer), row, score)
            self.scored, worst = both.best(self.k, len(self.units))
            self.bar = torch.maximum(self.bar, worst)

    def best(self) -> TopK:
        """The k best of every query. After `finalise`."""
        return self.scored.table(self.k, len(self.units))
