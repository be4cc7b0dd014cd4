"""What a model does with the output of its LM head before it calls it logits: nothing, a scale, or a soft cap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lenscore.models.decoder import text_config_of
from lenscore.models.text_only import text_inputs
from storage_layouts.errors import InputError

WIDEST = 100.0
"""Head outputs are tried from minus to plus this: real ones stay within it, and every soft cap is below it."""


@dataclass(frozen=True)
class HeadOutput:
    """logits = cap * tanh(scale * output / cap), or scale * output where there is no cap.

    Never changes the order of tokens, as `scale` is positive.
    """

    scale: float = 1.0
    cap: float | None = None

    def logits(self, output: Tensor) -> Tensor:
        """The model's logits for what its head gave, in any shape and in the dtype of `output`."""
        scaled = output * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)


@torch.inference_mode()
def head_output(model: Any, token: int) -> HeadOutput:
    """Find it out: run the model on one token, put a known ramp in place of the head's output, see what comes back.

    The configuration does not tell: of two models with the same `final_logit_softcapping` one applies it and another
    does not (in transformers 5.23 Gemma 4, and Gemma 3 with vision). Raises InputError if what comes back is none of
    the three.
    """
    head = model.get_output_embeddings()
    shown: list[Tensor] = []

    def show_ramp(_module: Any, _args: Any, output: Tensor) -> Tensor:
        ramp = torch.linspace(-WIDEST, WIDEST, output.shape[-1], dtype=torch.float32, device=output.device)
        shown.append(ramp.to(output.dtype))
        return shown[0].expand_as(output)

    hook = head.register_forward_hook(show_ramp)
    try:
        ids = torch.tensor([[token]], device=model.get_input_embeddings().weight.device)
        found = model(**text_inputs(model, ids), use_cache=False).logits[0, -1].float()
    finally:
        hook.remove()
    raw = shown[0].float().to(found.device)
    candidates = [HeadOutput(), HeadOutput(scale=float((found @ raw) / (raw @ raw)))]
    cap = getattr(text_config_of(model.config), "final_logit_softcapping", None)
    if cap is not None:
        candidates.append(HeadOutput(cap=float(cap)))
    for candidate in candidates:
        off = (candidate.logits(raw) - found).abs().max()
        if candidate.scale > 0 and off <= 2 * torch.finfo(shown[0].dtype).eps * found.abs().max():
            return candidate
    raise InputError(
        f"--lenses logit: {type(model).__name__} does something else to the output of its head than to scale or "
        "soft-cap it, so its logits are not understood; leave the lens out"
    )
