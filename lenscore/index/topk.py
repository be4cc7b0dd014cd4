"""The k best candidates of every query, in one order that never depends on blocks, devices or chance.

Order: score descending, then contextual layer ascending, then id ascending. `torch.topk` alone does not do it: among
equal scores it returns whichever it meets, so equal rows would change places with the block size or the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NO_CONTEXTUAL_LAYER = -1
"""Stands in `TopK.contextual_layers` for lenses whose candidates are vocabulary tokens."""


@dataclass(frozen=True)
class TopK:
    """The k best candidates of n queries, best first; all three tensors are [..., k] on one device.

    `ids` int32: store rows where `contextual_layers` (int16) is a layer, token ids where it is
    `NO_CONTEXTUAL_LAYER`. `scores` float32.
    """

    ids: Tensor
    scores: Tensor
    contextual_layers: Tensor

    def reshape(self, *shape: int) -> TopK:
        """The same candidates with other leading dimensions."""
        return TopK(self.ids.reshape(shape), self.scores.reshape(shape), self.contextual_layers.reshape(shape))


def top_of_block(scores: Tensor, k: int, first_id: int = 0, layer: int = NO_CONTEXTUAL_LAYER) -> TopK:
    """The k best of one block of candidates: `scores` float32 [n, m], where column j is candidate `first_id + j`.

    Fewer than k columns give fewer than k candidates. -inf marks a candidate that is not allowed; NaN comes
    out on top, where `require_finite` finds it. Raises TypeError if the scores are not float32.
    """
    if scores.dtype != torch.float32:
        raise TypeError(f"scores are {scores.dtype}; half precision wrecks ranks, so they must be float32")
    k = min(k, scores.shape[1])
    values, columns = torch.topk(scores, min(k + 1, scores.shape[1]), dim=1)
    if values.shape[1] > k:
        # Only where the last one taken equals the first one left out could another choice be the right one.
        tied = (values[:, k - 1] == values[:, k]).nonzero().squeeze(1)
        values, columns = values[:, :k].contiguous(), columns[:, :k].contiguous()
        if len(tied):
            exact = _exact_columns(scores[tied], k)
            columns[tied], values[tied] = exact, scores[tied].gather(1, exact)
    ids = (columns + first_id).to(torch.int32)
    return _in_order(TopK(ids, values, torch.full_like(ids, layer, dtype=torch.int16)), k)


def merge(parts: Sequence[TopK], k: int) -> TopK:
    """The k best of several lists over the same queries [n, k_i]; with fewer candidates in all, all of them."""
    together = TopK(
        torch.cat([part.ids for part in parts], dim=1),
        torch.cat([part.scores for part in parts], dim=1),
        torch.cat([part.contextual_layers for part in parts], dim=1),
    )
    return _in_order(together, k)


def require_finite(top: TopK, what: str) -> TopK:
    """Return `top`, or raise ValueError naming `what` and the first query whose scores are not finite numbers."""
    bad = ~torch.isfinite(top.scores)
    if bad.any():
        query = int(bad.flatten(0, -2).any(dim=1).nonzero()[0])
        raise ValueError(
            f"{what}: query {query} has the score {top.scores.flatten(0, -2)[query].tolist()}; "
            "expected finite numbers (NaN or infinity in the hidden states or in the references)"
        )
    return top


def _in_order(top: TopK, k: int) -> TopK:
    """Sort by (score descending, contextual layer, id) with stable sorts from the last key to the first."""
    order = torch.argsort(top.ids, dim=1, stable=True)
    order = order.gather(1, torch.argsort(top.contextual_layers.gather(1, order), dim=1, stable=True))
    by_score = torch.argsort(top.scores.gather(1, order), dim=1, stable=True, descending=True)
    order = order.gather(1, by_score)[:, :k]
    return TopK(top.ids.gather(1, order), top.scores.gather(1, order), top.contextual_layers.gather(1, order))


def _exact_columns(scores: Tensor, k: int) -> Tensor:
    """Columns [n, k] of the best scores, ties to the smaller column, by one integer key that has no ties.

    The high half of the key orders as the float does (its bits, with negative numbers turned round), the low half
    is the column counted backwards.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0: equal numbers get equal bits
    rank = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(torch.int64)
    columns = torch.arange(scores.shape[1], device=scores.device)
    keys = (rank << 32) | (0xFFFFFFFF - columns)
    return torch.topk(keys, k, dim=1).indices
