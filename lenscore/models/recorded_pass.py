"""One forward pass, recorded so that it can go on from any layer with other hidden states.

What comes before the changed states is computed once: the vision encoder, the blocks below the changed layer, and, in
causal attention, keys and values of all earlier positions. Blocks are called with the arguments with which the model
called them, so one mechanism serves all families.
"""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from lenscore.models.decoder import decoder_of, text_config_of
from lenscore.models.hidden_states import after_block, run_until, state_of
from lenscore.models.loading import LanguageModel
from lenscore.models.text_only import ordinary_tokens, text_inputs
from storage_layouts.errors import InputError

_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of blocks (`layer_types` of a configuration) whose state of earlier positions is keys and values alone."""


@dataclass(frozen=True)
class _Call:
    """How the model called a block, besides the hidden states, and what it added to the output before the next one."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    added: Tensor


_PROBE_TOKENS = 12
_MOST_OFF = 0.05
"""Of the change of the output: bf16 stays below it, another computation far above."""


class RecordedPass:
    """The forward pass of one sequence through the blocks of a language model, in its own dtype.

    Attributes:
        states: tensors [length, dim], the inputs of blocks 0..N-1 and the output of the last one.
        length: of the sequence.

    """

    def __init__(self, model: Any, inputs: Mapping[str, Any]) -> None:
        """Run `model(**inputs)` on a batch of one. Raises InputError for a model whose blocks cannot be run alone."""
        self._name = type(model).__name__
        self._blocks = decoder_of(model).layers
        kinds = set(getattr(text_config_of(model.config), "layer_types", None) or _ATTENTION)
        self._cache = DynamicCache() if kinds <= _ATTENTION else None
        before, after, calls = self._run(model, inputs)
        self.states = [state[0] for state in (*before, after[-1])]
        self.length = len(self.states[0])
        # Qwen3-VL adds image features to the output of its first blocks (DeepStack, arXiv 2406.04334).
        following = zip(after, (*before[1:], after[-1]), strict=True)
        self._calls = [_Call(*call, entered - left) for call, (left, entered) in zip(calls, following, strict=True)]
        self._require_repeatable()
        self._reuses_keys = self._cache is not None and self._keys_can_be_reused()

    @torch.inference_mode()
    def first_affected(self, layer: int, position: int) -> int:
        """The first position whose states from `layer` on depend on the state of `position` there; 0 if unknown."""
        if not self._reuses_keys:
            return 0
        first = position
        for call in self._calls[layer:]:
            mask = call.kwargs.get("attention_mask")
            if mask is not None:
                sees = _allowed(mask)[0].any(dim=0)[:, first:].any(dim=1)
                first = min(first, int(sees.nonzero()[0, 0])) if bool(sees.any()) else first
        return first

    @torch.inference_mode()
    def resume(self, layer: int, states: Tensor, start: int = 0) -> Tensor:
        """The outputs of the last block if layer `layer` had other states from position `start` on.

        Args:
            layer: 0..N; at N the states themselves are the outputs.
            states: [batch, length - start, dim], of any number of variants.
            start: positions before it are those of the recorded pass; at most `first_affected`.

        """
        start = start if self._reuses_keys else 0
        return self._resumed(layer, states, start)

    def _resumed(self, layer: int, states: Tensor, start: int) -> Tensor:
        cache = None if start == 0 or self._cache is None else _After(self._cache, start)
        carried: dict[int, Any] = {}  # what blocks hand to later ones besides the states: Gemma 4's keys and values

        def now(name: str, value: Any) -> Any:
            if isinstance(value, Cache):
                return cache
            if isinstance(value, dict | UserDict):
                return carried.setdefault(id(value), copy.copy(value))
            return self._part(name, value, start) if start else value

        for block, call in zip(self._blocks[layer:], self._calls[layer:], strict=True):
            args = [now("", value) for value in call.args]
            kwargs = {name: now(name, value) for name, value in call.kwargs.items()}
            states = state_of(block(states.to(call.added.device), *args, **kwargs)) + call.added[:, start:]
        return states

    def _part(self, name: str, value: Any, start: int) -> Any:
        """An argument of a block for the positions from `start` on. ValueError for one that is not known."""
        if name == "attention_mask":
            if value is None:
                length, device = self.length, self.states[0].device
                return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None, start:]
            return value[..., start:, :]
        if name in ("position_ids", "cache_position") and isinstance(value, Tensor):
            return value[..., start:]
        if name.startswith("position_embeddings"):
            return value[..., start:, :] if isinstance(value, Tensor) else tuple(one[..., start:, :] for one in value)
        if isinstance(value, Tensor) and self.length in value.shape:
            raise ValueError(name)
        return value

    def _run(self, model: Any, inputs: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor], list[tuple[Any, Any]]]:
        """Inputs and outputs of all blocks, and their other arguments."""
        before: list[Tensor] = []
        after: list[Tensor] = []
        calls: list[tuple[Any, Any]] = []
        order: list[int] = []

        def enter(number: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            named = dict(kwargs)
            before.append(args[0] if args else named.pop("hidden_states"))
            calls.append((args[1:], named))
            order.append(number)

        def leave(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            after.append(state_of(output))

        hooks = [
            hook
            for number, block in enumerate(self._blocks)
            for hook in (
                block.register_forward_pre_hook(partial(enter, number), with_kwargs=True),
                block.register_forward_hook(leave),
            )
        ]
        caching = {"use_cache": False} if self._cache is None else {"use_cache": True, "past_key_values": self._cache}
        try:
            with torch.inference_mode():
                model(**{**inputs, **caching})
        finally:
            for hook in hooks:
                hook.remove()
        if order != list(range(len(self._blocks))) or any(len(state) != 1 for state in (*before, *after)):
            raise InputError(f"{self._name}: its blocks do not follow one another, or do not take one sequence")
        return before, after, calls

    @torch.inference_mode()
    def _require_repeatable(self) -> None:
        """Raises InputError unless the blocks alone give the recorded outputs."""
        try:
            again = self._resumed(0, self.states[0][None], 0)
        except Exception as error:  # whatever a block raises without what its model keeps for it
            raise InputError(f"{self._name}: its blocks cannot be run one by one ({error})") from error
        if not self._close(again[0], self.states[-1]):
            raise InputError(f"{self._name}: its blocks, run one by one, give other states than the model")

    @torch.inference_mode()
    def _keys_can_be_reused(self) -> bool:
        """Whether the second half of the positions, run behind keys and values of the first, gives the same."""
        half = self.length // 2
        try:
            again = self._resumed(0, self.states[0][None, half:], half)
        except Exception:  # an argument that cannot be cut, or keys that the model keeps elsewhere
            return False
        return self._close(again[0], self.states[-1][half:])

    def _close(self, found: Tensor, expected: Tensor) -> bool:
        """Whether states are the same but for rounding, which sums in another order change."""
        off = torch.linalg.vector_norm((found - expected).float(), dim=-1)
        return bool((off <= 64 * torch.finfo(expected.dtype).eps * expected.float().norm(dim=-1)).all())


class _After(Cache):
    """Keys and values of a recorded pass before a position, followed by those of the block that asks."""

    def __init__(self, recorded: DynamicCache, start: int) -> None:
        super().__init__(layers=[])
        self._recorded, self._start = recorded, start

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        known = self._recorded.layers[layer_idx]
        return tuple(
            torch.cat([old[:, :, : self._start].expand(len(new), -1, -1, -1), new], dim=-2)
            for old, new in ((known.keys, key_states), (known.values, value_states))
        )


def _allowed(mask: Tensor) -> Tensor:
    """Which position attends to which, [batch, heads, length, length], in a mask that is bool or added to scores."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


@torch.inference_mode()
def require_resumable(llm: LanguageModel) -> None:
    """Raises InputError unless a resumed pass gives what the model gives with the same states, on a few tokens.

    Nothing else would show a model whose blocks depend on more than the states before them.
    """
    ids = torch.tensor([ordinary_tokens(llm.tokenizer, _PROBE_TOKENS)], device=llm.device)
    inputs = text_inputs(llm.model, ids)
    recorded = RecordedPass(llm.model, inputs)
    blocks, place = decoder_of(llm.model).layers, ids.shape[1] // 2
    for layer in sorted({0, len(blocks) // 2, len(blocks) - 1}):
        other = recorded.states[layer].flip(0)[place]  # as long as a state is
        start = recorded.first_affected(layer, place)
        states = recorded.states[layer][None, start:].repeat(2, 1, 1)  # the second one stays as it was
        states[0, place - start] = other
        changed, same = recorded.resume(layer, states, start)
        expected = _with_state(llm.model, inputs, layer, place, other)
        # How far a change goes through the blocks says how far rounding goes too.
        reach = (expected - recorded.states[-1]).float().norm()
        for found, wanted in ((changed, expected), (same, recorded.states[-1])):
            off = (found - wanted[start:].to(found.device)).float().norm()
            if not off <= _MOST_OFF * reach:
                raise InputError(
                    f"{llm.name}: layer {layer} with another state gives an output that is {float(off / reach):.2g} of "
                    f"the change off that of the model, expected at most {_MOST_OFF}; {type(llm.model).__name__} is "
                    "not supported here"
                )


def _with_state(model: Any, inputs: Mapping[str, Any], layer: int, place: int, state: Tensor) -> Tensor:
    """The outputs of the last block [length, dim] of a whole pass with one other state."""
    blocks = decoder_of(model).layers

    def replace(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        given = (args[0] if args else kwargs["hidden_states"]).clone()
        given[0, place] = state.to(given.device)
        return ((given, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": given})

    hook = blocks[layer].register_forward_pre_hook(replace, with_kwargs=True)
    try:
        last = after_block(len(blocks) - 1)
        return run_until(model, dict(inputs), [last])[last][0]
    finally:
        hook.remove()
