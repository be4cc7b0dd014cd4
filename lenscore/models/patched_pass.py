"""Hidden states put into the place of one token of a prompt, from where the model runs on."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lenscore.models.decoder import decoder_of, number_of_layers, text_config_of
from lenscore.models.float32_blocks import blocks_in_float32, has_16_bit_blocks
from lenscore.models.hidden_states import after_block, run_until
from lenscore.models.text_only import text_inputs
from storage_layouts.errors import first_line

MOST_STATES = 256
"""States that run together at most."""

MOST_BYTES = 1 << 30
"""Of the keys and values of states that run together. It does not depend on the machine, because their number may
change the last bits of the results."""

MOST_OFF = 0.01
"""Largest difference between a pass with a cache and one without, as a share of the state's length."""


class PatchedPass:
    """A model and a prompt in which the input of block l at one token is replaced by a given state.

    The tokens before this place are the same for every state, so their keys and values are computed once; of the blocks
    before l nothing is computed. A model for which this does not give what the whole prompt gives (one that is not
    causal, or whose cache is of another kind) runs the whole prompt for every state; that is measured here.

    Args:
        model: a causal LM, or a VLM, whose LLM reads the prompt.
        ids: token ids of the prompt.
        place: of the token that is replaced, 0 to len(ids) - 1.

    """

    @torch.inference_mode()
    def __init__(self, model: Any, ids: Sequence[int], place: int) -> None:
        self._model, self._place = model, place
        self._depth = number_of_layers(model)
        self._ids = torch.tensor([list(ids)], device=model.get_input_embeddings().weight.device)
        # Blocks may use keys and values of blocks before them (Gemma 3n, Gemma 4), which then have to run.
        self._skips = not getattr(text_config_of(model.config), "num_kv_shared_layers", 0)
        with self._watched_for_tuples():
            self._unpatched = self._states_of_prompt()
        self._first, self._cache = 0, None
        if place > 0 and self._same_with_a_cache():
            self._first = place

    @property
    def runs_whole_prompt(self) -> bool:
        """Whether every state runs with the whole prompt."""
        return self._first == 0

    @property
    def _is_last(self) -> bool:
        return self._place == self._ids.shape[1] - 1

    def together(self, count: int = 0) -> int:
        """Number of states that run at the same time, with so many tokens behind the prompt."""
        if self._cache is None:
            numbers = 16 * (self._ids.shape[1] + count) * text_config_of(self._model.config).hidden_size
            size = numbers * self._unpatched[0].element_size()
        else:
            of_prompt = sum(tensor.nbytes for layer in self._cache.layers for tensor in _tensors_of(layer))
            size = 2 * of_prompt * (self._first + count) // self._first
        return max(1, min(MOST_STATES, MOST_BYTES // max(1, size)))

    @torch.inference_mode()
    def outputs(self, states: Tensor, layer: int) -> Tensor:
        """The outputs of the last block at the last token of the prompt, one for each of some states.

        `states` [n, dim] replace the input of block `layer`, or, if that is the number of blocks, the output of the
        last one. Returns [n, dim] in the model's dtype.
        """
        return torch.cat([self._outputs(part, layer) for part in states.split(self.together())])

    @torch.inference_mode()
    def continuations(
        self, states: Tensor, layer: int, next_of: Callable[[Tensor], Tensor], count: int, ends: Sequence[int]
    ) -> Tensor:
        """How the model continues the prompt with each state in its place: int64 [n, count].

        `next_of` chooses the next token [n] from outputs of the last block [n, dim]. What stands behind one of `ends`,
        which are tokens, has no meaning. The other arguments are those of `outputs`.
        """
        parts = states.split(self.together(count))
        return torch.cat([self._continuations(part, layer, next_of, count, ends) for part in parts])

    def _outputs(self, states: Tensor, layer: int) -> Tensor:
        if layer == self._depth:
            return states if self._is_last else self._unpatched[layer][0, -1:].expand(states.shape)
        cache = self._cache_for(len(states), layer if self._skips else 0)
        with self._patched(states, layer, self._skips):
            return self._run(self._ids[:, self._first :].expand(len(states), -1), cache).to(states.device)

    def _continuations(
        self, states: Tensor, layer: int, next_of: Callable[[Tensor], Tensor], count: int, ends: Sequence[int]
    ) -> Tensor:
        ids, cache = self._ids[:, self._first :].expand(len(states), -1), self._cache_for(len(states), 0)
        found: list[Tensor] = []
        ended = torch.zeros(len(states), dtype=torch.bool, device=ids.device)
        while len(found) < count and not bool(ended.all()):
            # A cache holds keys and values of the state from then on. All blocks run, because later tokens need theirs.
            replaced = nullcontext() if found and cache is not None else self._patched(states, layer, skips=False)
            with replaced:
                outputs = self._run(ids, cache)
            outputs = states if layer == self._depth and self._is_last and not found else outputs
            found.append(next_of(outputs).to(ids.device))
            ended |= torch.isin(found[-1], torch.tensor(ends, device=ids.device))
            ids = found[-1][:, None] if cache is not None else torch.cat([ids, found[-1][:, None]], dim=1)
        return torch.stack([*found, *found[-1:] * (count - len(found))], dim=1)

    def _run(self, ids: Tensor, cache: Any) -> Tensor:
        """Outputs of the last block at the last of some tokens [n, length], which follow what is in the cache."""
        last = after_block(self._depth - 1)
        if cache is None:
            return run_until(self._model, text_inputs(self._model, ids), [last])[last][:, -1]
        # Not the whole VLM, which may number positions from the last image that it saw (Qwen2-VL).
        inputs = {"input_ids": ids, "past_key_values": cache}
        return run_until(decoder_of(self._model).module, inputs, [last])[last][:, -1]

    def _cache_for(self, count: int, first: int) -> Any:
        """A copy of the cache for so many states in the blocks from `first` on."""
        cache = copy.deepcopy(self._cache)
        if cache is not None:
            same = torch.zeros(count, dtype=torch.int64, device=self._ids.device)
            for one in cache.layers[first:]:
                one.reorder_cache(same)
        return cache

    @contextmanager
    def _patched(self, states: Tensor, layer: int, skips: bool) -> Iterator[None]:
        """The states stand in their place of the input of block `layer`; if it `skips`, no block before computes."""
        prompt, at = self._unpatched[layer][:, self._first :], self._place - self._first

        def replace(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            given = args[0] if args else kwargs["hidden_states"]
            given = (prompt.expand(len(states), -1, -1) if skips else given).clone()
            given[:, at] = states.to(given.device, given.dtype)
            return ((given, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": given})

        blocks = decoder_of(self._model).layers
        with ExitStack() as stack:
            if layer < len(blocks):
                stack.callback(blocks[layer].register_forward_pre_hook(replace, with_kwargs=True).remove)
            for block in blocks[:layer] if skips else ():
                stack.enter_context(_skipped(block))
            yield

    @contextmanager
    def _watched_for_tuples(self) -> Iterator[None]:
        """Blocks that return more than a state (MPT, RWKV) all have to run: nothing here knows what to return."""

        def watch(_module: nn.Module, _args: Any, output: Any) -> None:
            self._skips = self._skips and isinstance(output, Tensor)

        with ExitStack() as stack:
            for block in decoder_of(self._model).layers:
                stack.callback(block.register_forward_hook(watch).remove)
            yield

    def _states_of_prompt(self) -> list[Tensor]:
        """Hidden states [1, length, dim] of the prompt itself at layers 0 to `depth`, its last block's output."""
        names: list[int | str] = [*range(self._depth), after_block(self._depth - 1)]
        states = run_until(self._model, text_inputs(self._model, self._ids), names)
        return [states[name] for name in names]

    def _same_with_a_cache(self) -> bool:
        """Whether states of the prompt, put into their own place behind a cache, give its own output; sets the cache.

        What a model of remote code may raise, or compute, is no error: it runs the whole prompt.
        """
        why = "its outputs differ"
        try:
            if self._is_same():
                return True
            if has_16_bit_blocks(self._model):  # massive activations may amplify the rounding of 16 bits
                with blocks_in_float32(self._model):
                    kept, self._unpatched = self._unpatched, self._states_of_prompt()
                    same = self._is_same()
                self._unpatched = kept
                if same:
                    self._cache = self._cache_of_prefix()
                    return True
        except Exception as error:  # whatever a model raises that takes no such cache
            why = first_line(error)
        self._first, self._cache = 0, None
        logging.getLogger("lenscore").warning(
            "patchscopes: %s runs the whole prompt for every token, which takes longer, because with a cache %s",
            type(self._model).__name__,
            why,
        )
        return False

    def _is_same(self) -> bool:
        self._first, self._cache = self._place, self._cache_of_prefix()
        expected = self._unpatched[self._depth][0, -1].float()
        for layer in sorted({0, self._depth // 2, self._depth - 1}):
            own = self._unpatched[layer][0, self._place].expand(2, -1)
            off = (self._outputs(own, layer).float() - expected).norm(dim=-1).max()
            if not off <= MOST_OFF * expected.norm():
                return False
        return True

    def _cache_of_prefix(self) -> Any:
        return decoder_of(self._model).module(input_ids=self._ids[:, : self._place], use_cache=True).past_key_values


@contextmanager
def _skipped(block: nn.Module) -> Iterator[None]:
    """A block that hands on its input."""
    # accelerate puts its own forward onto the blocks of a model that is spread over devices.
    own = vars(block).get("forward")
    block.forward = _handed_on
    try:
        yield
    finally:
        del block.forward
        if own is not None:
            block.forward = own


def _handed_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _tensors_of(layer: Any) -> list[Tensor]:
    return [value for value in vars(layer).values() if isinstance(value, Tensor)]
