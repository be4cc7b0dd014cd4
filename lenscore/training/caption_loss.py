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

POSITIONS_AT_ONCE = 128
"""Positions whose logits are in memory at the same time, whatever the batch and the length of its captions."""


class CaptionLoss(nn.Module):
    """A vision-language model as the function that is trained. A module, so that accelerate can wrap it whole.

    The head is frozen, so the gradient of a position's loss needs nothing that comes later: it is computed with the
    loss, and the logits are dropped (as in Liger Kernel's fused linear cross-entropy, Hsu et al., arXiv 2410.10989).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, labels: Tensor, tokens: int, **inputs: Tensor) -> Tensor:
        """Sum of the cross-entropies of the learnt tokens (nats), divided by ``tokens``; 0 if nothing is learnt.

        ``labels`` int64 [images, length], -100 where nothing is learnt; ``inputs`` are those of the model.
        """
        states = self.model.model(**inputs, use_cache=False).last_hidden_state
        images, places = torch.nonzero(labels[:, 1:] != -100, as_tuple=True)
        said_before, learnt = states[images, places], labels[images, places + 1]
        total = torch.zeros((), device=states.device)
        gradients = []
        for span, following in zip(
            said_before.detach().split(POSITIONS_AT_ONCE), learnt.split(POSITIONS_AT_ONCE), strict=True
        ):
            loss = F.cross_entropy(self.model.lm_head(span.requires_grad_()).float(), following, reduction="sum")
            gradients += torch.autograd.grad(loss, span)
            total += loss.detach()
        summed: Tensor = _WithGradient.apply(said_before, total, torch.cat(gradients))
        return summed / tokens


class _WithGradient(torch.autograd.Function):
    """A number whose gradient with respect to the states is known already."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        """``value``; ``gradient`` has the shape of ``states``."""
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of ``states``, and none of the others."""
        return ctx.saved_tensors[0] * upstream, None, None
