"""How much of a state its best candidates describe: the share of its variance that their vectors explain.

No judge is asked. What a lens compares with its references is centred, and so are the references; the share is that of
the nearest sum of the best references with weights that are not negative (a word that is absent describes nothing). As
a control, random references explain it in the same way.

Everything is in the space in which the lens compares: unit states and unit embeddings for cosines; for logits the
output of the final norm and the rows of the LM head, because it is their product that ranks tokens. States of unit or
normed length also keep the few states of enormous length from being most of the variance.

States are centred by the mean over the visual tokens of their image, at their layer: the share is of what sets a patch
apart from its image. It needs no other images, so it is the same for any shards, and for an image alone. References are
centred by the mean of all candidates of their contextual layer, or of the vocabulary: a word is described by what sets
it apart from other words. (For logits this changes nothing in the ranks, as softmax does not see it.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lenscore.index.topk import TopK
from lenscore.lenses.lens import Lens
from lenscore.lenses.references import References, draw_candidates, gather_vectors, hashed_numbers

MOST_REFERENCES = 5
"""The most candidates whose vectors explain a state: all 31 of their subsets are tried."""
_NUMBERS_PER_BLOCK = 1 << 24
"""Numbers of references that are held at a time, in float64."""
_DEPENDENT = 1e-10
"""Unit references whose squared distance from the span of others is below this add nothing to them but rounding."""


@runtime_checkable
class VectorLens(Lens, Protocol):
    """A lens that ranks references by their product with something that it makes of a state."""

    def compared(self, states: Tensor, layers: Sequence[int]) -> Tensor:
        """What it compares with references: float32 [layers, n, dim] for states as in `Lens.top`."""
        ...

    def references(self) -> Mapping[int, References]:
        """Its references by contextual layer (`NO_CONTEXTUAL_LAYER` for the vocabulary)."""
        ...


def has_vectors(lens: type[Lens]) -> bool:
    """Whether a lens is a `VectorLens`."""
    return hasattr(lens, VectorLens.compared.__name__) and hasattr(lens, VectorLens.references.__name__)


class ExplainedVariance(NamedTuple):
    """Shares of variance at visual tokens; float32 [layers, n].

    Attributes:
        variances: squared distances of what the lens compares from their mean over the image.
        explained_1: the share of it (0..1) that the best candidate explains; NaN where the variance is 0.
        explained_5: the share that the five best explain, or all, if there are fewer.
        random_1, random_5: the same for as many random candidates, of the same contextual layers.

    """

    variances: Tensor
    explained_1: Tensor
    explained_5: Tensor
    random_1: Tensor
    random_5: Tensor


class VarianceExplainer:
    """Explains the states of images by the candidates of one lens."""

    def __init__(self, lens: VectorLens) -> None:
        self._lens, self._references = lens, dict(lens.references())
        self._means: dict[int, Tensor] = {}

    @torch.inference_mode()
    def explain(
        self, states: Tensor, layers: Sequence[int], top: TopK, images: Sequence[tuple[str, int]]
    ) -> ExplainedVariance:
        """Shares for states [layers, n, dim], with the lens's candidates there [layers, n, k], as host tensors.

        `images` are the (sha256, number of tokens) of the images, whose tokens are concatenated.
        """
        compared = self._lens.compared(states, layers)
        device, k = compared.device, min(MOST_REFERENCES, top.ids.shape[2])
        shape = len(layers), sum(tokens for _, tokens in images)
        numbers = np.concatenate([np.empty((0, k), np.int64), *(random_numbers(*image, k) for image in images)])
        ids, contexts = (part[..., :k].to(device).long().flatten(0, 1) for part in (top.ids, top.contextual_layers))
        drawn = draw_candidates(self._references, torch.from_numpy(numbers).to(device).repeat(len(layers), 1), contexts)
        of_images = compared.double().split([tokens for _, tokens in images], dim=1)
        centred = torch.cat([states - states.mean(dim=1, keepdim=True) for states in of_images], dim=1).flatten(0, 1)
        size = max(1, _NUMBERS_PER_BLOCK // (k * centred.shape[1]))
        found = [
            torch.stack([block.square().sum(dim=1), *self._shares(block, best, of), *self._shares(block, random, of)])
            for block, best, random, of in zip(
                *(part.split(size) for part in (centred, ids, drawn, contexts)), strict=True
            )
        ]
        return ExplainedVariance(*torch.cat(found, dim=1).float().cpu().unflatten(1, shape))

    def _shares(self, centred: Tensor, ids: Tensor, contexts: Tensor) -> tuple[Tensor, Tensor]:
        return explained_shares(self._vectors(ids, contexts), centred)

    def _vectors(self, ids: Tensor, contexts: Tensor) -> Tensor:
        """The centred vectors of candidates [n, k], float64 [n, k, dim]."""
        found = gather_vectors(self._references, ids, contexts).double()
        for layer in contexts.unique().tolist():
            if layer not in self._means:
                self._means[layer] = self._references[layer].mean()
            found[contexts == layer] -= self._means[layer]
        return found


def random_numbers(name: str, tokens: int, k: int) -> npt.NDArray[np.int64]:
    """Numbers of 63 bits [tokens, k] from a hash of `name` (the image's sha256)."""
    return hashed_numbers(f"lenscore.explained_variance/{name}", tokens * k).reshape(tokens, k)


def explained_shares(vectors: Tensor, centred: Tensor) -> tuple[Tensor, Tensor]:
    """The shares of |centred|^2 [n, dim] that the first of the vectors [n, k, dim] explains, and all: float64 [n] each.

    A share is 1 - min |centred - w @ vectors|^2 / |centred|^2 over weights w >= 0; NaN where |centred| is 0.
    """
    vectors, centred = vectors.double(), centred.double()
    lengths = vectors.norm(dim=2)
    units = vectors / lengths.masked_fill(lengths == 0, 1.0)[..., None]
    gram = units @ units.transpose(1, 2)
    products = (units @ centred[..., None]).squeeze(2)
    squares = centred.square().sum(dim=1)
    first = products[:, 0].clamp(min=0).square()
    return (first / squares).clamp(max=1), (_best_reduction(gram, products) / squares).clamp(max=1)


def _best_reduction(gram: Tensor, products: Tensor) -> Tensor:
    """The largest 2 w . products - w' gram w over w >= 0, float64 [n].

    `products` [n, k] are those with unit references, `gram` [n, k, k] those of the references. It is by how much the
    references reduce the squared distance. The best weights are positive on a set of linearly independent references,
    where they are those without the constraint: so all sets are tried. Weights of any set whose negative ones are
    replaced by 0 satisfy the constraint, and cannot be better than the best.
    """
    k = products.shape[1]
    subsets = torch.tensor([[bool(number >> bit & 1) for bit in range(k)] for number in range(1, 2**k)])
    subsets = subsets.to(products.device)
    inside = (subsets[:, :, None] & subsets[:, None, :]).double()
    masked = gram[:, None] * inside
    masked.diagonal(dim1=-2, dim2=-1).copy_((masked.diagonal(dim1=-2, dim2=-1) * subsets).where(subsets, 1.0))
    wanted = products[:, None] * subsets
    factors, failed = torch.linalg.cholesky_ex(masked)
    pivots = factors.diagonal(dim1=-2, dim2=-1).square().amin(dim=-1)
    weights = torch.cholesky_solve(wanted[..., None], factors).squeeze(-1).clamp(min=0)
    weights = weights.where(((failed == 0) & (pivots > _DEPENDENT))[..., None], 0.0)
    gained = 2 * (weights * wanted).sum(dim=-1) - (weights * (weights @ gram)).sum(dim=-1)
    return gained.amax(dim=1).clamp(min=0)
