"""Hidden states of the residual stream, and nothing computed that is not asked for.

Layer l is the *input* of block l, for 0 <= l <= N-1 (what `output_hidden_states` calls hidden_states[l]).
Three other states have other names:
- `FINAL`, the state after the last block and the final norm;
- `UNNORMED`, the same before the norm: what the norm is given;
- `after_block(l)`, what block l gives. It is layer l+1, unless the model puts something in between: Qwen3-VL adds image
  features to the visual tokens behind its first blocks (DeepStack, arXiv 2406.04334), so there `after_block(l)` is
  the state before they are added and layer l+1 the one after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lenscore.models.decoder import Decoder, decoder_of, number_of_layers

FINAL = "final"
UNNORMED = "unnormed"


def after_block(layer: int) -> str:
    """The name of the state that block `layer` gives, before anything is added to it; see above."""
    return f"after block {layer}"


class _EverythingCaptured(Exception):  # noqa: N818 - a signal that ends the forward pass, not an error
    """Unwinds the forward pass once the deepest asked layer is in hand."""


@torch.no_grad()  # not inference_mode: users train probes on what get_hidden_states returns
def run_until(model: Any, inputs: dict[str, Any], layers: Sequence[int | str]) -> dict[int | str, Tensor]:
    """Run `model(**inputs)` and return the asked hidden states, each [batch, sequence, dim] in the model's dtype.

    The pass stops once the deepest asked state is there, so deeper blocks, the final norm and the LM head cost
    nothing. `layers` are integers 0..N-1, `FINAL`, `UNNORMED` and names by `after_block`. Raises ValueError for a
    state that the model does not have.
    """
    decoder = decoder_of(model)
    places = {name: _place(decoder, name) for name in layers}
    if not places:
        raise ValueError("no hidden state was asked for")
    states: dict[int | str, Tensor] = {}
    last = max(places, key=lambda name: places[name].depth)

    def keep(name: int | str, state: Tensor) -> None:
        states[name] = state
        if name == last:
            raise _EverythingCaptured

    def before(name: int | str) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(name, args[0] if args else kwargs["hidden_states"])

        return hook

    def behind(name: int | str) -> Any:
        def hook(_module: Any, _args: tuple[Any, ...], output: Any) -> None:
            keep(name, output[0] if isinstance(output, tuple) else output)

        return hook

    hooks = [
        place.module.register_forward_pre_hook(before(name), with_kwargs=True)
        if place.before
        else place.module.register_forward_hook(behind(name))
        for name, place in places.items()
    ]
    try:
        model(**{**inputs, "use_cache": False})
    except _EverythingCaptured:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return states


@dataclass(frozen=True)
class HookPoint:
    """Where a state is taken: before or behind a module. Of two places the pass comes to the less deep one first."""

    depth: float
    module: nn.Module
    before: bool


def _place(decoder: Decoder, name: int | str) -> HookPoint:
    depth = len(decoder.layers)
    if isinstance(name, int) and 0 <= name < depth:
        return HookPoint(name, decoder.layers[name], True)
    if name in (UNNORMED, FINAL):
        if decoder.norm is None:
            raise ValueError(f"{type(decoder.module).__name__} has no final norm that could be found")
        return HookPoint(depth + (name == FINAL), decoder.norm, name == UNNORMED)
    for layer, block in enumerate(decoder.layers):
        if name == after_block(layer):
            return HookPoint(layer + 0.5, block, False)
    raise ValueError(f"layer {name!r}: expected one of 0..{depth - 1}, {UNNORMED!r} or {FINAL!r}")


def get_hidden_states(
    model: Any, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **inputs: Any
) -> tuple[Tensor, ...]:
    """All N+1 hidden states of a forward pass, as the latentlens library returns them.

    `input_ids` and `attention_mask` are integer tensors [batch, sequence]; further inputs (pixel values and so on)
    go to the model as they are. Entry l < N is layer l, entry N is `FINAL`; each is [batch, sequence, dim]. Of a model
    without a final norm, such as an encoder, entry N is what the model itself gives as its last hidden state.
    """
    given = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
    if decoder_of(model).norm is None:
        with torch.no_grad():
            return tuple(model(**given, output_hidden_states=True).hidden_states)
    layers: list[int | str] = [*range(number_of_layers(model)), FINAL]
    states = run_until(model, {name: value for name, value in given.items() if value is not None}, layers)
    return tuple(states[layer] for layer in layers)
