"""The states that take the place of those of visual tokens: what a lens says they are, and controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.topk import NO_CONTEXTUAL_LAYER
from lenscore.interventions.names import LENS_SUBSTITUTES, PLAIN_SUBSTITUTES
from lenscore.lenses import VectorLens
from lenscore.lenses.references import draw_candidates, gather_vectors, hashed_numbers

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """What one lens found at the n visual tokens of an image at one layer.

    ids int64 [n, k], tokens or rows; contextual_layers int64 [n, k], `NO_CONTEXTUAL_LAYER` for tokens.
    """

    ids: Tensor
    contextual_layers: Tensor


class Substitutes:
    """Makes the states that replace others; see `LENS_SUBSTITUTES` and `PLAIN_SUBSTITUTES` for their names.

    Args:
        lenses: lenses that compare states with vectors, by name.
        embeddings: the input embeddings [tokens, dim] of the model.
        index: what the lenses over a store search; None without such a lens.
        most: candidates in "nearest-k".
        seed: of the random controls, with the image's hash.

    """

    def __init__(
        self, lenses: Mapping[str, VectorLens], embeddings: Tensor, index: ContextualIndex | None, most: int, seed: int
    ) -> None:
        self._references = {name: dict(lens.references()) for name, lens in lenses.items()}
        self._of_rows = {name for name, lens in lenses.items() if lens.ids == "rows"}
        self._embeddings, self._index, self._most, self._seed = embeddings, index, most, seed
        self._mean: tuple[Candidates, Tensor] | None = None  # of the best candidates of the image and layer at hand

    def plain(self, name: str, states: Tensor, tokens: Ints) -> Tensor:
        """A substitute that asks no lens, for some of the states [n, dim] of an image: float32 [m, dim]."""
        some = states[torch.from_numpy(tokens)].float()
        if name == "unchanged":
            return some
        if name == "mean-state":
            return states.float().mean(dim=0).expand(some.shape)
        if name == "zero":
            return torch.zeros_like(some)
        raise ValueError(f"{name}: expected one of {PLAIN_SUBSTITUTES}")

    def of_lens(self, name: str, lens: str, found: Candidates, states: Tensor, tokens: Ints, item: str) -> Tensor:
        """What a lens says of some of the states [n, dim] of an image, or a control: float32 [m, dim].

        Each has the length of the state that it replaces; deviations have that of its difference from the
        mean state of the image. `item` names image and layer in the hashes of controls.
        """
        at = torch.from_numpy(tokens)
        others = partial(self._others, len(states), tokens, item)
        make: Mapping[str, Callable[[], Tensor]] = {
            "nearest": lambda: self._best(lens, found, at),
            "nearest-k": lambda: normalize(self._vectors(lens, found, at, self._most), dim=2).mean(dim=1),
            "word": lambda: self._embeddings[self.words(lens, found)[at]].float(),
            "other-patch": lambda: self._best(lens, found, others()),
            "deviation": lambda: self._deviations(lens, found, at),
            "other-deviation": lambda: self._deviations(lens, found, others()),
            "random": lambda: self._random(lens, found, at, item),
        }
        if name not in make:
            raise ValueError(f"{name}: expected one of {LENS_SUBSTITUTES}")
        mean = states.float().mean(dim=0) if name in ("deviation", "other-deviation") else 0.0
        lengths = (states[at].float() - mean).norm(dim=1, keepdim=True)
        return mean + normalize(make[name]().to(states.device), dim=1) * lengths

    def words(self, lens: str, found: Candidates) -> Tensor:
        """The token of the best candidate at each visual token: int64 [n]."""
        best, layers = found.ids[:, 0], found.contextual_layers[:, 0]
        if lens not in self._of_rows:
            return best
        assert self._index is not None
        tokens = torch.empty_like(best)
        for layer in layers.unique().tolist():
            mine = layers == layer
            of_rows = self._index.words(layer).rows["token_id"].to_numpy()
            tokens[mine] = torch.from_numpy(of_rows[best[mine].numpy()].astype(np.int64))
        return tokens

    def _vectors(self, lens: str, found: Candidates, at: Tensor, most: int) -> Tensor:
        """The vectors of the best candidates of some tokens: float32 [m, most, dim]."""
        best = slice(None, most)
        return gather_vectors(self._references[lens], found.ids[at, best], found.contextual_layers[at, best])

    def _best(self, lens: str, found: Candidates, at: Tensor) -> Tensor:
        """That of the best candidate of each: float32 [m, dim]."""
        return self._vectors(lens, found, at, 1)[:, 0]

    def _deviations(self, lens: str, found: Candidates, at: Tensor) -> Tensor:
        """What sets the best candidate of some tokens apart from those of the whole image: float32 [m, dim].

        It lacks what all states of text have and those of an image may not.
        """
        if self._mean is None or self._mean[0] is not found:
            best = normalize(self._best(lens, found, torch.arange(len(found.ids))), dim=1)
            self._mean = found, best.mean(dim=0)
        return normalize(self._best(lens, found, at), dim=1) - self._mean[1]

    def _random(self, lens: str, found: Candidates, at: Tensor, name: str) -> Tensor:
        """A random candidate of the same contextual layer for each token."""
        layers, references = found.contextual_layers[at, :1], self._references[lens]
        numbers = torch.from_numpy(self._numbers(f"{name}/{lens}", len(found.ids)))[at, None]
        return gather_vectors(references, draw_candidates(references, numbers, layers), layers)[:, 0]

    def _others(self, count: int, tokens: Ints, item: str) -> Tensor:
        """For each of some tokens another one of the image: outside of them, unless they are all."""
        outside = np.setdiff1d(np.arange(count), tokens)
        numbers = self._numbers(f"{item}/other", count)[tokens]
        if len(outside):
            return torch.from_numpy(outside[numbers % len(outside)])
        return torch.from_numpy((tokens + 1 + numbers % max(1, count - 1)) % count)

    def _numbers(self, name: str, count: int) -> Ints:
        """Numbers of 63 bits from a hash of the seed and a name: int64 [count]."""
        return hashed_numbers(f"lenscore.interventions/{self._seed}/{name}", count)


def candidates_of(ids: Any, contextual_layers: Any | None) -> Candidates:
    """Candidates from arrays [n, k] of a run; None for lenses over the vocabulary."""
    found = torch.from_numpy(np.asarray(ids).astype(np.int64))
    if contextual_layers is None:
        return Candidates(found, torch.full_like(found, NO_CONTEXTUAL_LAYER))
    return Candidates(found, torch.from_numpy(np.asarray(contextual_layers).astype(np.int64)))
