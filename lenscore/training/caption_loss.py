"""The loss of captions: logits at the caption positions alone, a few positions at a time.

A vocabulary is large: the logits of a batch are many times the size of its hidden states. LLaVA's own forward pass
computes them at every position of a slice, whose product with a frozen head PyTorch expands to one copy of the head an
image.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

POSITIONS_AT_ONCE = 128
"""Positions whose logits are in memory at the same time, whatever the batch and the length of its captions."""


class CaptionLoss(nn.Module):
    """A vision-language model as the function that is trained. A module, so that accelerate can wrap it whole."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, labels: Tensor, tokens: int, **inputs: Tensor) -> Tensor:
        """Sum of the cross-entropies of the learnt tokens (nats), divided by ``tokens``; 0 if nothing is learnt.

        ``labels`` int64 [images, length], -100 where nothing is learnt; ``inputs`` are those of the model. Logits are
        recomputed in the backward pass instead of kept (Chen et al. 2016, arXiv 1604.06174).
        """
        states = self.model.model(**inputs, use_cache=False).last_hidden_state
        images, places = torch.nonzero(labels[:, 1:] != -100, as_tuple=True)
        said_before, learnt = states[images, places], labels[images, places + 1]
        loss = torch.zeros((), device=states.device)
        for span in zip(said_before.split(POSITIONS_AT_ONCE), learnt.split(POSITIONS_AT_ONCE), strict=True):
            loss = loss + checkpoint(self._cross_entropy, *span, use_reentrant=False, preserve_rng_state=False)
        return loss / tokens

    def _cross_entropy(self, states: Tensor, learnt: Tensor) -> Tensor:
        return F.cross_entropy(self.model.lm_head(states).float(), learnt, reduction="sum")
