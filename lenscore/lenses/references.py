"""The vectors with which lenses compare states, and random ones of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_VECTORS_PER_BLOCK = 8192


@dataclass(frozen=True)
class References:
    """The vectors with which a lens compares: of the vocabulary, or of the rows of one contextual layer.

    Attributes:
        count: number of ids, 0 to count - 1.
        excluded: ids that are no candidates, int64 ascending.
        vectors: gives the vectors float32 [m, dim] of ids int64 [m], both on the lens's device.

    """

    count: int
    excluded: Tensor
    vectors: Callable[[Tensor], Tensor]

    @property
    def candidates(self) -> int:
        """Number of ids that the lens may find."""
        return self.count - len(self.excluded)

    def candidate_ids(self, numbers: Tensor) -> Tensor:
        """The ids of candidates by their number among the candidates, int64."""
        gaps = self.excluded - torch.arange(len(self.excluded), device=self.excluded.device)
        return numbers + torch.searchsorted(gaps, numbers, right=True)

    def mean(self) -> Tensor:
        """The mean vector of all candidates, float64 [dim]."""
        total: Tensor | float = 0.0
        for first in range(0, self.candidates, _VECTORS_PER_BLOCK):
            stop = min(first + _VECTORS_PER_BLOCK, self.candidates)
            numbers = torch.arange(first, stop, device=self.excluded.device)
            total = total + self.vectors(self.candidate_ids(numbers)).double().sum(dim=0)
        assert isinstance(total, Tensor)
        return total / self.candidates


def gather_vectors(references: Mapping[int, References], ids: Tensor, contexts: Tensor) -> Tensor:
    """The vectors of ids [...] of contextual layers [...], at least one: float32 [..., dim], on their device.

    `references` are those of a lens, by contextual layer.
    """
    found: Tensor | None = None
    for layer in contexts.unique().tolist():
        mine, of_layer = contexts == layer, references[layer]
        vectors = of_layer.vectors(ids[mine].to(of_layer.excluded.device)).float().to(ids.device)
        if found is None:
            found = vectors.new_empty(*ids.shape, vectors.shape[1])
        found[mine] = vectors
    assert found is not None
    return found


def draw_candidates(references: Mapping[int, References], numbers: Tensor, contexts: Tensor) -> Tensor:
    """Random candidates of contextual layers int64 [n, k], chosen by numbers of that shape.

    Those of one line and layer differ.
    """
    drawn = torch.empty_like(contexts)
    for place in range(contexts.shape[1]):
        same = contexts[:, :place] == contexts[:, place, None]
        for layer in contexts[:, place].unique().tolist():
            mine = contexts[:, place] == layer
            left = references[layer].candidates - same[mine].sum(dim=1)
            drawn[mine, place] = numbers[mine, place] % left
        earlier = drawn[:, :place].masked_fill(~same, torch.iinfo(torch.int64).max).sort(dim=1).values
        for taken in earlier.T:
            drawn[:, place] += drawn[:, place] >= taken
    for layer in contexts.unique().tolist():
        mine, of_layer = contexts == layer, references[layer]
        drawn[mine] = of_layer.candidate_ids(drawn[mine].to(of_layer.excluded.device)).to(drawn.device)
    return drawn


def hashed_numbers(name: str, count: int) -> npt.NDArray[np.int64]:
    """Numbers of 63 bits [count] from a hash of a name."""
    stream = hashlib.shake_256(name.encode()).digest(8 * count)
    return (np.frombuffer(stream, dtype="<u8") >> np.uint64(1)).astype(np.int64)
