"""The k best candidates of every query, in a deterministic order: score descending, then layer, then id ascending.

The order of equal scores in `torch.topk` depends on the block size and the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NO_CONTEXTUAL_LAYER = -1
"""Value of `TopK.contextual_layers` for lenses whose candidates are vocabulary tokens."""


class TopK(NamedTuple):
    """The k best candidates of n queries, best first; all three tensors are [..., k] on one device.

    `ids` int32: store rows where `contextual_layers` (int16) is a layer, token ids where it is
    `NO_CONTEXTUAL_LAYER`. `scores` float32.
    """

    ids: Tensor
    scores: Tensor
    contextual_layers: Tensor

    def reshape(self, *shape: int) -> TopK:
        """The same candidates with other leading dimensions."""
        return TopK(*(part.reshape(shape) for part in self))

    @staticmethod
    def concatenate(parts: Sequence[TopK], dim: int) -> TopK:
        """All candidates of all parts."""
        return TopK(*(torch.cat(part, dim) for part in zip(*parts, strict=True)))


def top_of_block(scores: Tensor, k: int, first_id: int = 0) -> TopK:
    """The k best of one block of candidates: `scores` float32 [n, m], where column j is candidate `first_id + j`.

    Fewer than k columns give fewer than k candidates. -inf marks an excluded candidate; NaN is ranked first, so that
    `require_finite` finds it. Raises TypeError if the scores are not float32.
    """
    if scores.dtype != torch.float32:
        raise TypeError(f"scores are {scores.dtype}; half precision changes ranks, so they must be float32")
    k = min(k, scores.shape[1])
    values, columns = torch.topk(scores, min(k + 1, scores.shape[1]), dim=1)
    if values.shape[1] > k:
        # torch.topk may have chosen wrongly only where the last chosen score equals the first left out.
        tied = (values[:, k - 1] == values[:, k]).nonzero().squeeze(1)
        values, columns = values[:, :k].contiguous(), columns[:, :k].contiguous()
        if len(tied):
            exact = _exact_columns(scores[tied], k)
            columns[tied], values[tied] = exact, scores[tied].gather(1, exact)
    ids = (columns + first_id).to(torch.int32)
    return _in_order(TopK(ids, values, torch.full_like(ids, NO_CONTEXTUAL_LAYER, dtype=torch.int16)), k)


def merge(parts: Sequence[TopK], k: int) -> TopK:
    """The k best, or all if there are fewer, of several lists of candidates for the same queries [n, k_i].

    The lists are those of different candidates: blocks of the vocabulary, or rows of different parts of an index.
    """
    return _in_order(TopK.concatenate(parts, dim=1), k)


def require_finite(top: TopK, what: str) -> TopK:
    """Return `top`. Raises ValueError with `what` and the first query whose scores are not finite."""
    bad = ~torch.isfinite(top.scores)
    if bad.any():
        query = int(bad.flatten(0, -2).any(dim=1).nonzero()[0])
        raise ValueError(
            f"{what}: query {query} has the score {top.scores.flatten(0, -2)[query].tolist()}; "
            "expected finite numbers (NaN or infinity in the hidden states or in the references)"
        )
    return top


def count_above(scores: Tensor, thresholds: Tensor) -> Tensor:
    """How many of some scores float32 [n, m] are above each threshold float32 [words, n]: int64 [words, n]."""
    above = torch.empty_like(scores)  # sums of float32 are exact up to 2^24, and on a CPU four times as fast as of bool
    counts = [torch.gt(scores, some[:, None], out=above).sum(dim=1) for some in thresholds]
    return torch.stack(counts).long() if counts else thresholds.long()


def _in_order(top: TopK, k: int) -> TopK:
    """Sort by (score descending, contextual layer, id) with stable sorts from the last key to the first."""
    order = torch.argsort(top.ids, dim=1, stable=True)
    for key, descending in ((top.contextual_layers, False), (top.scores, True)):
        order = order.gather(1, torch.argsort(key.gather(1, order), dim=1, stable=True, descending=descending))
    order = order[:, :k]
    return TopK(*(part.gather(1, order) for part in top))


def _exact_columns(scores: Tensor, k: int) -> Tensor:
    """Columns [n, k] of the best scores, ties to the smaller column, by a unique integer key.

    The high half of the key has the order of the float (its bits, with negative numbers reversed), the low half is the
    column in descending order.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    rank = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(torch.int64)
    columns = torch.arange(scores.shape[1], device=scores.device)
    keys = (rank << 32) | (0xFFFFFFFF - columns)
    return torch.topk(keys, k, dim=1).indices
