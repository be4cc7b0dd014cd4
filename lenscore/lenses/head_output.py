"""How a model turns the output of its LM head into logits: unchanged, scaled, or with a soft cap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lenscore.models.decoder import text_config_of
from lenscore.models.text_only import text_inputs
from storage_layouts.errors import InputError

WIDEST = 100.0
"""Test outputs are between minus and plus this value, which exceeds real outputs and soft caps."""


@dataclass(frozen=True)
class HeadOutput:
    """logits = cap * tanh(scale * output / cap), or scale * output without a cap; `scale` is positive."""

    scale: float = 1.0
    cap: float | None = None

    def logits(self, output: Tensor) -> Tensor:
        """The logits for an output of the head, in its shape and dtype."""
        scaled = output * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)


@torch.inference_mode()
def head_output(model: Any, token: int) -> HeadOutput:
    """Measure it: run the model on one token with a known ramp as the head's output, and compare the logits.

    The configuration is not enough: of two models with the same `final_logit_softcapping` one applies it and another
    does not (in transformers 5.23 Gemma 4, and Gemma 3 with vision). Raises InputError for any other function.
    """
    head = model.get_output_embeddings()
    ramps: list[Tensor] = []

    def replace_by_ramp(_module: Any, _args: Any, output: Tensor) -> Tensor:
        ramp = torch.linspace(-WIDEST, WIDEST, output.shape[-1], dtype=torch.float32, device=output.device)
        ramps.append(ramp.to(output.dtype))
        return ramps[0].expand_as(output)

    hook = head.register_forward_hook(replace_by_ramp)
    try:
        ids = torch.tensor([[token]], device=model.get_input_embeddings().weight.device)
        found = model(**text_inputs(model, ids), use_cache=False).logits[0, -1].float()
    finally:
        hook.remove()
    raw = ramps[0].float().to(found.device)
    candidates = [HeadOutput(), HeadOutput(scale=float((found @ raw) / (raw @ raw)))]
    cap = getattr(text_config_of(model.config), "final_logit_softcapping", None)
    if cap is not None:
        candidates.append(HeadOutput(cap=float(cap)))
    for candidate in candidates:
        off = (candidate.logits(raw) - found).abs().max()
        if candidate.scale > 0 and off <= 2 * torch.finfo(ramps[0].dtype).eps * found.abs().max():
            return candidate
    raise InputError(
        f"--lenses logit: {type(model).__name__} changes the output of its head by more than a scale or a "
        "soft cap, which is not supported; leave the lens out"
    )
