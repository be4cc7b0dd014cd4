"""Attention from the tokens of an answer to the visual tokens: of each block, and of all blocks up to it (rollout)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lenscore.interventions.substitution import AnsweredPass

_RESIDUAL = 0.5
"""The part of a state that passes a block beside attention."""


class AttentionMaps(NamedTuple):
    """Weights float32 [layers, answer, n] from where each token of the answer is predicted to the n visual tokens.

    ``attention`` is the mean over the heads of a block. ``rollout`` is that of Abnar and Zuidema (arXiv 2005.00928):
    the product, over the blocks up to this one, of half the attention, with rows that sum to 1, and half the identity.
    """

    attention: Tensor
    rollout: Tensor


@torch.inference_mode()
def attention_maps(passed: AnsweredPass) -> AttentionMaps:
    """The maps of a pass. Raises InputError for a model whose blocks return no attention weights."""
    at = torch.from_numpy(passed.positions)
    attention: list[Tensor] = []
    rollout: list[Tensor] = []
    rolled = torch.eye(passed.recorded.length)

    def use(weights: Tensor) -> None:
        nonlocal rolled
        rolled = rolled.to(weights.device)
        mixed = (1 - _RESIDUAL) * weights / weights.sum(dim=1, keepdim=True)
        rolled = mixed @ rolled + _RESIDUAL * rolled
        for kind, matrix in ((attention, weights), (rollout, rolled)):
            kind.append(matrix[passed.predicted][:, at.to(matrix.device)].cpu())

    passed.recorded.attend(use)
    return AttentionMaps(torch.stack(attention), torch.stack(rollout))
