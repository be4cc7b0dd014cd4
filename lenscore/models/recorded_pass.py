"""One forward pass, recorded so that it can go on from any layer with other hidden states.

What comes before the changed states is computed once: the vision encoder, the blocks below the changed layer, and, in
causal attention, keys and values of all earlier positions. Blocks are called with the arguments with which the model
called them, so one mechanism serves all families.
"""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from lenscore.models.decoder import decoder_of, text_config_of
from lenscore.models.hidden_states import state_of
from storage_layouts.errors import InputError, first_line

_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of blocks (`layer_types` of a configuration) whose state of earlier positions is keys and values alone."""


@dataclass(frozen=True)
class _Call:
    """How the model called a block, besides the hidden states, and what it added to the output before the next one."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    added: Tensor


_FEW_POSITIONS = 256
"""Products of fewer rows take a device about as long."""
_MOST_OFF = 0.05
"""Of the length of a state, with eager attention."""


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
        self._firsts: dict[tuple[int, int], int] = {}
        self._reuses_keys = self._cache is not None and self._keys_can_be_reused()

    @torch.inference_mode()
    def first_affected(self, layer: int, position: int) -> int:
        """The first position whose states from `layer` on depend on those from `position` on there; 0 if unknown."""
        if not self._reuses_keys:
            return 0
        if (layer, position) not in self._firsts:
            self._firsts[layer, position] = self._first_affected(layer, position)
        return self._firsts[layer, position]

    def _first_affected(self, layer: int, position: int) -> int:
        first = position
        for call in self._calls[layer:]:
            mask = call.kwargs.get("attention_mask")
            if mask is not None:
                sees = _allowed(mask)[0].any(dim=0)[:, first:].any(dim=1)
                first = min(first, int(sees.nonzero()[0, 0])) if bool(sees.any()) else first
        return first

    @torch.inference_mode()
    def resume(
        self, layer: int, states: Tensor, start: int = 0, blocked: Tensor | None = None, window: int = 0
    ) -> Tensor:
        """The outputs of the last block if layer `layer` had other states from position `start` on.

        Args:
            layer: 0..N; at N the states themselves are the outputs.
            states: [batch, length - start, dim], of any number of variants.
            start: positions before it are those of the recorded pass; at most `first_affected`.
            blocked: bool [batch, length - start, length], which position does not attend to which, besides those that
                it never attends to, in `window` blocks from `layer` on.
            window: the number of these blocks.

        """
        start = start if self._reuses_keys else 0
        return self._resumed(layer, states, start, blocked, window)

    def _resumed(
        self,
        layer: int,
        states: Tensor,
        start: int,
        blocked: Tensor | None = None,
        window: int = 0,
        additive: bool = False,
    ) -> Tensor:
        cache = None if start == 0 or self._cache is None else _After(self._cache, start)
        carried: dict[int, Any] = {}  # what blocks hand to later ones besides the states: Gemma 4's keys and values

        def now(name: str, value: Any) -> Any:
            if isinstance(value, Cache):
                return cache
            if isinstance(value, dict | UserDict):
                return carried.setdefault(id(value), copy.copy(value))
            return self._part(name, value, start) if start else value

        for number, (block, call) in enumerate(zip(self._blocks[layer:], self._calls[layer:], strict=True)):
            args = [now("", value) for value in call.args]
            kwargs = {name: now(name, value) for name, value in call.kwargs.items()}
            if blocked is not None and number < window:
                kwargs["attention_mask"] = self._blocking(blocked, kwargs["attention_mask"], start)
            if additive:
                kwargs["attention_mask"] = self._additive(kwargs.get("attention_mask"), start)
            states = state_of(block(states.to(call.added.device), *args, **kwargs)) + call.added[:, start:]
        return states

    def _part(self, name: str, value: Any, start: int) -> Any:
        """An argument of a block for the positions from `start` on. ValueError for one that is not known."""
        if name == "attention_mask":
            return self._causal(start) if value is None else value[..., start:, :]
        if name in ("position_ids", "cache_position") and isinstance(value, Tensor):
            return value[..., start:]
        if name.startswith("position_embeddings"):
            return value[..., start:, :] if isinstance(value, Tensor) else tuple(one[..., start:, :] for one in value)
        if isinstance(value, Tensor) and self.length in value.shape:
            raise ValueError(name)
        return value

    @torch.inference_mode()
    def attend(self, use: Callable[[Tensor], None]) -> None:
        """Hand on the weights of each block's attention, mean over heads, in order: float32 [length, length].

        They are those that transformers computes as "eager" attention. Raises InputError for a model whose blocks do
        not return them, or that is another one with eager attention.
        """
        seen: list[Tensor] = []
        refused = f"{self._name} returns no attention weights of a block; leave --attention out"

        def collect(_module: nn.Module, _args: Any, output: Any) -> None:
            weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
            if isinstance(weights, Tensor) and weights.shape[2:] == (self.length, self.length):
                seen.append(weights[0].float().mean(dim=0))

        def hand_on(_module: nn.Module, _args: Any, _output: Any) -> None:
            if not seen:
                raise InputError(refused)
            use(seen[0])
            seen.clear()

        with ExitStack() as stack:
            stack.enter_context(_eager(self._blocks))
            for block in self._blocks:
                for module in block.modules():
                    hook = hand_on if module is block else collect
                    stack.callback(module.register_forward_hook(hook).remove)
            try:
                found = self._resumed(0, self.states[0][None], 0, additive=True)[0].float()
            except InputError:
                raise
            except Exception as error:  # whatever a block raises that is no attention
                raise InputError(f"{refused} ({first_line(error)})") from error
        expected = self.states[-1].float()
        off = (found - expected).norm(dim=1) / expected.norm(dim=1)
        if not off.mean() <= _MOST_OFF:
            raise InputError(f"{self._name} gives other states with eager attention; leave --attention out")

    def _causal(self, start: int) -> Tensor:
        """What a block without a mask attends to, from position `start` on: bool [1, 1, length - start, length]."""
        seen = torch.ones(self.length, self.length, dtype=torch.bool, device=self.states[0].device).tril()
        return seen[None, None, start:]

    def _blocking(self, blocked: Tensor, mask: Tensor | None, start: int) -> Tensor:
        """A mask of a block, with more that is blocked."""
        mask = self._causal(start) if mask is None else mask
        never = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        return mask.masked_fill(blocked[:, None].to(mask.device), never)

    def _additive(self, mask: Tensor | None, start: int) -> Tensor:
        """A mask of a block as eager attention takes it."""
        mask = self._causal(start) if mask is None else mask
        if mask.dtype != torch.bool:
            return mask
        dtype = self.states[0].dtype
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)

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


@contextmanager
def _eager(blocks: nn.ModuleList) -> Iterator[None]:
    """Let blocks compute attention as "eager", which returns weights, whatever they were loaded with."""
    found: list[Any] = [module.config for module in blocks.modules() if hasattr(module, "config")]
    configs = {id(config): config for config in found}
    usual = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config in configs.values():
            config._attn_implementation = "eager"
        yield
    finally:
        for config, name in usual:
            config._attn_implementation = name


def batches_of(starts: Sequence[int], length: int, most: int) -> list[list[int]]:
    """Which changed passes run together, for passes that go on at positions ``starts``: lists of their numbers.

    A batch goes on at the first of its starts, so passes of other starts are only added to small batches. At most
    ``most`` positions run together, unless a single pass has more.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(starts)), key=lambda i: -starts[i]):
        batch = batches[-1] if batches else []
        positions = len(batch) * (length - starts[batch[0]]) if batch else 0
        fits = (len(batch) + 1) * (length - starts[i]) <= most
        if batch and fits and (starts[i] == starts[batch[-1]] or positions < _FEW_POSITIONS):
            batch.append(i)
        else:
            batches.append([i])
    return batches


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
