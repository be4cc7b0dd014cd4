"""Whether a model can be used by `RecordedPass`, on a few tokens: checks before the first image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lenscore.models.changed_states import ChangedStates, states_changed
from lenscore.models.decoder import decoder_of
from lenscore.models.hidden_states import after_block, run_until
from lenscore.models.loading import LanguageModel
from lenscore.models.recorded_pass import RecordedPass
from lenscore.models.text_only import ordinary_tokens, text_inputs
from storage_layouts.errors import InputError, first_line

_PROBE_TOKENS = 12
_MOST_OFF = 0.05
"""Of the change of the output: bf16 stays below it, another computation far above."""


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


def require_attention(llm: LanguageModel) -> None:
    """Raises InputError for a model whose attention weights cannot be read, on a few tokens."""
    ids = torch.tensor([ordinary_tokens(llm.tokenizer, _PROBE_TOKENS)], device=llm.device)
    RecordedPass(llm.model, text_inputs(llm.model, ids)).attend(lambda weights: None)


@torch.inference_mode()
def require_blockable(llm: LanguageModel) -> None:
    """Raises InputError unless a token to which no other one attends at any layer plays no part, on a few tokens.

    Blocks that are not attention, or that take no mask, would hand it on.
    """
    ids = torch.tensor([ordinary_tokens(llm.tokenizer, _PROBE_TOKENS)], device=llm.device)
    recorded = RecordedPass(llm.model, text_inputs(llm.model, ids))
    length, depth = ids.shape[1], len(recorded.states) - 1
    place, rest = length // 2, slice(length // 2 + 1, length)
    blocked = torch.zeros(2, length, length, dtype=torch.bool)
    blocked[:, :, place] = torch.arange(length) != place
    states = recorded.states[0].repeat(2, 1, 1)
    states[1, place] = recorded.states[0].flip(0)[place]
    refused = f"{llm.name}: {type(llm.model).__name__} is not supported here: its attention cannot be blocked"
    try:
        one, other = recorded.resume(0, states, 0, blocked, depth)[:, rest].float()
        start = recorded.first_affected(0, rest.start)
        behind = recorded.resume(0, states[:1, start:], start, blocked[:1, start:], depth)[0, rest.start - start :]
    except Exception as error:  # whatever a block raises that takes no such mask
        raise InputError(f"{refused} ({first_line(error)})") from error
    reach = (one - recorded.states[-1][rest].float()).norm()
    for off in ((other - one).norm(), (behind.float() - one).norm()):
        if not off <= _MOST_OFF * reach:
            raise InputError(f"{refused} (a token that no other one attends to still changes the output)")


def _with_state(model: Any, inputs: Mapping[str, Any], layer: int, place: int, state: Tensor) -> Tensor:
    """The outputs of the last block [length, dim] of a whole pass with one other state."""
    last = after_block(len(decoder_of(model).layers) - 1)
    with states_changed(model, layer, [ChangedStates(torch.tensor([place]), state[None])]):
        return run_until(model, dict(inputs), [last])[last][0]
