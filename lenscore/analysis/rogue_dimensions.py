"""How much of a cosine a few dimensions make: the check for rogue dimensions of LatentLens' nearest neighbours.

The cosine of a state and a row of the store is a sum over dimensions of the products of their unit vectors. Where a few
dimensions, the same for all tokens, make most of it, it says little about meaning (Timkey & van Schijndel, EMNLP 2021,
arXiv 2109.04404, who call them rogue).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.exact_search import unit_rows
from lenscore.index.topk import TopK
from storage_layouts.token_measures import LARGEST


def largest_dimensions(states: Tensor, top: TopK, index: ContextualIndex) -> tuple[Tensor, Tensor, Tensor]:
    """Shares of the cosine with the nearest row that the largest dimensions make, float32 [layers, tokens] each.

    Of the largest product, of the sum of the `LARGEST` largest ones, and the number of the largest dimension. A share
    may be above 1, because other dimensions may take from the cosine; it is NaN for a cosine that is not positive.

    `states` [layers, tokens, dim] in any dtype, `top` the candidates [layers, tokens, k] that `index` found for them.
    """
    first, five, dimension = (torch.full(top.scores.shape[:2], torch.nan) for _ in range(3))
    ids, contexts = (part[..., 0].to(states.device) for part in (top.ids, top.contextual_layers))
    for place, of_layer in enumerate(states):  # one layer at a time to save memory
        units = unit_rows(of_layer)
        rows = torch.empty_like(units)
        for context in contexts[place].unique().tolist():
            here = contexts[place] == context
            rows[here] = index.unit_vectors(context, ids[place][here].long()).to(units)
        products = units * rows
        cosines = products.sum(dim=1)
        cosines = torch.where(cosines > 0, cosines, torch.nan)
        largest = products.topk(min(LARGEST, products.shape[1]), dim=1).values
        first[place] = (largest[:, 0] / cosines).float().cpu()
        five[place] = (largest.sum(dim=1) / cosines).float().cpu()
        dimension[place] = products.argmax(dim=1).float().cpu()
    return first, five, dimension
