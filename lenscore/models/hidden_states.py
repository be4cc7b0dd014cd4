"""Hidden states of the residual stream, from a forward pass that stops at the deepest requested one.

Layer l is the *input* of block l, for 0 <= l <= N-1 (what `output_hidden_states` calls hidden_states[l]).
Three other states have names:
- `FINAL`, the state after the last block and the final norm;
- `UNNORMED`, the input of the final norm;
- `after_block(l)`, the output of block l. It equals layer l+1, except where Qwen3-VL adds image features to the visual
  tokens after its first blocks (DeepStack, arXiv 2406.04334): `after_block(l)` is the state before, layer l+1 after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lenscore.models.decoder import Decoder, decoder_of, number_of_layers, text_config_of
from storage_layouts.errors import InputError

FINAL = "final"
UNNORMED = "unnormed"


def after_block(layer: int) -> str:
    """The name of the output of block `layer`; see the module docstring."""
    return f"after block {layer}"


def lens_states(layers: Sequence[int], depth: int) -> list[int | str]:
    """The names of the states that lenses read at layers 0..depth; layer `depth` is the output of the last block.

    It is taken before the final norm, as all others: LogitLens applies the norm itself, and cosines compare like with
    like.
    """
    return [after_block(depth - 1) if layer == depth else layer for layer in layers]


class _EverythingCaptured(Exception):  # noqa: N818 - a signal that ends the forward pass, not an error
    """Ends the forward pass at the deepest requested state."""


@torch.no_grad()  # not inference_mode: users train probes on what get_hidden_states returns
def run_until(model: Any, inputs: dict[str, Any], layers: Sequence[int | str]) -> dict[int | str, Tensor]:
    """Run `model(**inputs)` and return the requested hidden states.

    Each is a tensor [batch, sequence, dim] in the model's dtype. `layers` are integers 0..N-1, `FINAL`, `UNNORMED`, or
    names from `after_block`. The pass stops at the deepest of them, so deeper blocks, the final norm and the LM head
    are not computed. Raises ValueError if the model has no such state, InputError if its states have another shape.
    """
    decoder = decoder_of(model)
    points = {name: _hook_point(decoder, name) for name in layers}
    if not points:
        raise ValueError("no hidden state was requested")
    states: dict[int | str, Tensor] = {}
    last = max(points, key=lambda name: points[name].depth)
    blocks_are_done = False

    def after_last_block(*_: Any) -> None:
        nonlocal blocks_are_done
        blocks_are_done = True

    def keep(name: int | str, state: Tensor) -> None:
        if points[name].module is decoder.norm and not blocks_are_done:
            return  # NanoChat normalises its embeddings with the same module
        _require_shape(model, state, inputs.get("input_ids"))
        states[name] = state
        if name == last:
            raise _EverythingCaptured

    def before(name: int | str, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(name, args[0] if args else kwargs["hidden_states"])

    def after(name: int | str, _module: Any, _args: tuple[Any, ...], output: Any) -> None:
        keep(name, state_of(output))

    hooks = [
        point.module.register_forward_pre_hook(partial(before, name), with_kwargs=True)
        if point.before
        else point.module.register_forward_hook(partial(after, name))
        for name, point in points.items()
    ]
    hooks.append(decoder.layers[-1].register_forward_hook(after_last_block))
    try:
        model(**{**inputs, "use_cache": False})
    except _EverythingCaptured:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return states


def state_of(output: Any) -> Tensor:
    """The hidden state in what a block returns: a tensor, or a tuple that begins with it."""
    state: Tensor = output[0] if isinstance(output, tuple) else output
    return state


def _require_shape(model: Any, state: Tensor, ids: Tensor | None) -> None:
    """Raises InputError unless a state is [batch, sequence, dim]."""
    if state.ndim != 3 or (ids is not None and len(state) != len(ids)):
        width = text_config_of(model.config).hidden_size
        raise InputError(
            f"--model {model.name_or_path}: {type(model).__name__} is not supported: its blocks hand on tensors of "
            f"shape {list(state.shape)}, expected [batch, sequence, {width}]; it has several residual streams, or "
            "another order of dimensions"
        )


@dataclass(frozen=True)
class HookPoint:
    """Where a state is captured: before or after a module. The forward pass reaches points in order of `depth`."""

    depth: float
    module: nn.Module
    before: bool


def _hook_point(decoder: Decoder, name: int | str) -> HookPoint:
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

    Padding on the left moves no position: such rows are read with their padding at the end, and the states moved back.

    Args:
        model: any Hugging Face language model or VLM.
        input_ids: integers [batch, sequence].
        attention_mask: integers [batch, sequence].
        inputs: further inputs of the model, such as pixel values.

    Returns:
        Tensors [batch, sequence, dim]: entry l < N is layer l, entry N is `FINAL`; for a model without a final norm,
        such as an encoder, entry N is the model's last hidden state. In models whose own `hidden_states` are the
        outputs of blocks (Mamba, FalconMamba, RWKV), entry l here is entry l-1 there, and in latentlens.

    """
    given = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
    given = {name: value for name, value in given.items() if value is not None}
    tokens = given.get("input_ids", given.get("inputs_embeds"))
    shape = None if tokens is None else tokens.shape[:2]
    padding = None if "position_ids" in given else _padding_on_the_left(attention_mask, shape)
    if padding is None:
        return _all_states(model, given)
    moved = {
        name: _rolled(value, -padding)
        for name, value in given.items()
        if isinstance(value, Tensor) and value.shape[:2] == shape
    }
    return tuple(_rolled(state, padding) for state in _all_states(model, given | moved))


def _all_states(model: Any, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
    if decoder_of(model).norm is None:
        with torch.no_grad():
            return tuple(model(**inputs, output_hidden_states=True).hidden_states)
    layers: list[int | str] = [*range(number_of_layers(model)), FINAL]
    states = run_until(model, inputs, layers)
    return tuple(states[layer] for layer in layers)


def _padding_on_the_left(mask: Any, shape: torch.Size | None) -> Tensor | None:
    """The number of padding tokens before the first token of each row, int64 [batch]; None if there are none.

    None too for a mask of another shape than the tokens, as that of a cache or of pairs of tokens.
    """
    if not isinstance(mask, Tensor) or mask.shape != shape:
        return None
    padding = (mask.cumsum(1) == 0).sum(1) % mask.shape[1]
    return padding if padding.any() else None


def _rolled(values: Tensor, shift: Tensor) -> Tensor:
    """Each row of [batch, sequence, ...] rolled to the right by its shift, int64 [batch]."""
    batch, length = values.shape[:2]
    index = (torch.arange(length, device=shift.device) - shift[:, None]) % length
    return values[torch.arange(batch, device=values.device)[:, None], index.to(values.device)]
