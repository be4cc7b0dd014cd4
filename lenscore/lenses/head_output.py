"""From the output of a model's last block to its logits: the final norm, the LM head, scales and a soft cap.

All of it is measured, because configurations are not enough: the final norm has many names, MiniCPM3 and Inkling scale
its output, and of two models with the same `final_logit_softcapping` one applies it and another does not (in
transformers 5.23 Gemma 4, and Gemma 3 with vision).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lenscore.models.decoder import decoder_of, text_config_of
from lenscore.models.hidden_states import state_of
from lenscore.models.text_only import text_inputs
from storage_layouts.errors import InputError

WIDEST = 100.0
"""Test outputs are between minus and plus this value, which exceeds real outputs and soft caps."""


class UnknownHeadError(InputError):
    """The way from the last block to the logits is none that is known; the message says which part of it."""


@dataclass(frozen=True)
class HeadOutput:
    """logits = cap * tanh(scale * output / cap), or scale * output without a cap; `scale` is positive."""

    scale: float = 1.0
    cap: float | None = None

    def logits(self, output: Tensor) -> Tensor:
        """The logits for an output of the head, in its shape and dtype."""
        scaled = output * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)


@dataclass(frozen=True)
class HeadPath:
    """What makes logits of the last block's output: `output.logits(head(scale * norm(state)))[:tokens]`.

    Attributes:
        norm: the final norm.
        scale: by which its output is multiplied before the head.
        output: what is done to the head's output.
        tokens: number of logits; the head may have more rows, which stand for no token.

    """

    norm: nn.Module
    scale: float
    output: HeadOutput
    tokens: int


@torch.inference_mode()
def head_path(model: Any, token: int) -> HeadPath:
    """Measure it: run the model on one token with a known ramp as the head's output, and compare what goes in and out.

    The final norm is the module whose input is the output of the last block, and whose output, times a number, is the
    input of the head. Raises UnknownHeadError if there is no such module, or if the logits are another function of the
    head's output than `HeadOutput`.
    """
    head, blocks = model.get_output_embeddings(), decoder_of(model).layers
    last: list[Tensor] = []
    follow: list[tuple[nn.Module, Tensor]] = []
    head_inputs: list[Tensor] = []
    ramps: list[Tensor] = []

    def after_last_block(_module: nn.Module, _args: Any, output: Any) -> None:
        last[:] = [state_of(output)]

    def after_any(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = next(iter((*args, *kwargs.values())), None)
        if last and isinstance(output, Tensor) and _equal(given, last[0]):
            follow.append((module, output))

    def replace_by_ramp(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        head_inputs.append(args[0])
        ramp = torch.linspace(-WIDEST, WIDEST, output.shape[-1], dtype=torch.float32, device=output.device)
        ramps.append(ramp.to(output.dtype))
        return ramps[0].expand_as(output)

    inside = set(blocks.modules())
    hooks = [
        module.register_forward_hook(after_any, with_kwargs=True)
        for module in model.modules()
        if module not in inside and module is not head
    ]
    hooks.append(blocks[-1].register_forward_hook(after_last_block))
    hooks.append(head.register_forward_hook(replace_by_ramp))
    try:
        ids = torch.tensor([[token]], device=model.get_input_embeddings().weight.device)
        logits = model(**text_inputs(model, ids), use_cache=False).logits[0, -1].float()
    finally:
        for hook in hooks:
            hook.remove()
    for module, output in follow:
        scale = _scale(output, head_inputs[0])
        if scale is not None:
            return HeadPath(module, scale, _head_output(model, ramps[0].to(logits.device), logits), len(logits))
    raise UnknownHeadError(f"{type(model).__name__} has no final norm from whose output the LM head computes")


def _head_output(model: Any, ramp: Tensor, logits: Tensor) -> HeadOutput:
    """The function that makes the logits of the ramp."""
    raw = ramp[: len(logits)].float()
    candidates = [HeadOutput(), HeadOutput(float((logits @ raw) / (raw @ raw)))] if len(raw) == len(logits) else []
    names = text_config_of(model.config).to_dict()
    caps = {float(value) for name, value in names.items() if "cap" in name and isinstance(value, int | float) and value}
    for cap in sorted(caps) if candidates else []:
        small = logits.abs() < cap / 2
        bent = cap * torch.atanh(logits[small] / cap)
        candidates += [HeadOutput(cap=cap), HeadOutput(float((bent @ raw[small]) / (raw[small] @ raw[small])), cap)]
    for candidate in candidates:
        off = (candidate.logits(raw) - logits).abs().max()
        if candidate.scale > 0 and off <= 2 * torch.finfo(ramp.dtype).eps * logits.abs().max():
            return candidate
    raise UnknownHeadError(
        f"{type(model).__name__} changes the output of its head by more than a scale or a soft cap, which is not "
        "supported"
    )


def _equal(a: Any, b: Tensor) -> bool:
    """Whether a is the tensor b; values that are not finite are said where images are read."""
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return False
    return torch.allclose(a.to(b.device, b.dtype), b, rtol=0, atol=0, equal_nan=True)


def _scale(output: Tensor, head_input: Tensor) -> float | None:
    """The number by which `output` is multiplied to get `head_input`; None if there is none."""
    if output.numel() != head_input.numel():
        return None
    a, b = output.double().flatten().cpu(), head_input.double().flatten().cpu()
    if _equal(a, b):
        return 1.0
    scale = float((a @ b) / (a @ a))
    rounding = 2 * torch.finfo(head_input.dtype).eps * float(b.norm())
    return scale if float((scale * a - b).norm()) <= rounding else None
