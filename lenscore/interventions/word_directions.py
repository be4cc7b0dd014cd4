"""The direction of a word among the vectors with which a lens compares states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lenscore.lenses import VectorLens, WordIds
from lenscore.lenses.references import hashed_numbers


@dataclass(frozen=True)
class Direction:
    """A unit vector, float64 [dim].

    `share` is how much of their own length the word's vectors have along it, on average.
    """

    unit: Tensor
    share: float


class WordDirections:
    """Directions of words for one lens.

    The direction of a word is the mean of its vectors minus that of all candidates. A lens over the vocabulary has one
    vector for each token of the word. A lens over a store has its rows: those that are nearest to the states in
    question, of all contextual layers, each less the mean of its layer.

    Args:
        lens: has the vectors.
        words: the ids of each word, as `lens find` looks them up.
        most: rows of a word that are used.

    """

    def __init__(self, lens: VectorLens, words: Sequence[WordIds], most: int) -> None:
        self._of_rows, self._most = lens.ids == "rows", most
        references = dict(lens.references())
        means = {layer: references[layer].mean() for layer in sorted({layer for word in words for layer in word})}
        self._vectors: list[Tensor] = []
        self._centred: list[Tensor] = []
        for word in words:
            found = {
                layer: references[layer].vectors(torch.tensor(ids, device=references[layer].excluded.device)).double()
                for layer, ids in word.items()
                if len(ids)
            }
            self._vectors.append(torch.cat(list(found.values())))
            self._centred.append(torch.cat([vectors - means[layer] for layer, vectors in found.items()]))

    def of(self, word: int, states: Tensor) -> Direction:
        """The direction of the word of this number at states [n, dim]."""
        vectors, centred = self._vectors[word], self._centred[word]
        if self._of_rows:
            near = normalize(vectors, dim=1) @ normalize(states.to(vectors), dim=1).mean(dim=0)
            best = near.argsort(descending=True, stable=True)[: self._most]
            vectors, centred = vectors[best], centred[best]
        unit = normalize(centred.mean(dim=0), dim=0)
        return Direction(unit, float((normalize(vectors, dim=1) @ unit).mean()))


def random_direction(name: str, dim: int) -> Tensor:
    """A unit vector, float64 [dim], that is equally likely in all directions, from a hash of a name."""
    uniform = (torch.from_numpy(hashed_numbers(name, dim)).double() + 0.5) / 2**63
    return normalize(torch.special.ndtri(uniform), dim=0)
