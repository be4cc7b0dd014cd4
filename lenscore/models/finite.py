"""Why hidden states are not finite."""

from __future__ import annotations

from typing import Any

import torch

_WIDER = {torch.float16: "; try --dtype bfloat16 or float32", torch.bfloat16: "; try --dtype float32"}


def why_not_finite(model: Any) -> str:
    """A message that names the first weight that is not finite, or else the dtype that overflows."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            return f"its weight {name} holds NaN or infinity, so the checkpoint is damaged or its training failed"
    return f"all its weights are finite, but its numbers are not in {model.dtype}{_WIDER.get(model.dtype, '')}"
