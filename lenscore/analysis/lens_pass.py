"""Hidden states through the lenses: of visual tokens and of text alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from lenscore.index.topk import TopK
from lenscore.lenses import DescribingLens, ExplainedVariance, Lens, NextToken, NextTokenLens


class LensPass(NamedTuple):
    """What the lenses say of n tokens at every layer, by lens, as host tensors.

    Attributes:
        tops: the candidates [layers, n, k].
        next_tokens: for lenses that read a distribution of the next token, its numbers [layers, n].
        descriptions: for lenses that describe states in words of their own, a text for each [layers][n].
        explained: for lenses that compare with vectors, if it was asked for, the shares of variance [layers, n].

    """

    tops: Mapping[str, TopK]
    next_tokens: Mapping[str, NextToken]
    descriptions: Mapping[str, list[list[str]]] = MappingProxyType({})
    explained: Mapping[str, ExplainedVariance] = MappingProxyType({})


def apply_lenses(
    lenses: Sequence[Lens],
    states: Tensor,
    layers: Sequence[int],
    k: int,
    last: Tensor,
    known: Mapping[str, TopK] = MappingProxyType({}),
) -> LensPass:
    """Apply every lens to states [layers, n, dim].

    `last` [n, dim] are the outputs of the last block at the same tokens, `known` candidates [layers, n, k] by lens that
    have been found before. Raises ValueError for scores that are not finite.
    """
    tops: dict[str, TopK] = {}
    next_tokens: dict[str, NextToken] = {}
    descriptions: dict[str, list[list[str]]] = {}
    for lens in lenses:
        if isinstance(lens, NextTokenLens):
            top, found = lens.read(states, layers, k, last)
            next_tokens[lens.name] = NextToken(*(part.cpu() for part in found))
        else:
            top = known[lens.name] if lens.name in known else lens.top(states, layers, k)
        tops[lens.name] = TopK(*(part.cpu() for part in top))
        if isinstance(lens, DescribingLens) and lens.description_tokens:
            descriptions[lens.name] = lens.describe(states, layers)
    return LensPass(tops, next_tokens, descriptions)
