"""One check of a loaded model: is the input of a block, which the lenses read, all that the model knows there?"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lenscore.models.decoder import decoder_of
from lenscore.models.hidden_states import run_until
from lenscore.models.text_only import text_inputs
from lenscore.models.weights import require_finite
from storage_layouts.errors import InputError, first_line

MOST_OFF = 0.01
"""Largest difference of logits, as a share of their length: usually 0; in Inkling 2, the only one that differs, 0.7."""


@torch.inference_mode()
def require_whole_states(model: Any, tokens: Sequence[int]) -> None:
    """Raises InputError unless hidden states are finite, [batch, sequence, dim], and the whole residual stream.

    The model, cut to its first N/2 blocks, reads `tokens` (ids of text) backwards, but with the state of `tokens` in
    place of its last block's output. Its logits must become those of `tokens`: in Inkling 2, whose norm and blocks look
    at several states, they do not. It takes two forward passes of one sentence. A model that cannot run in this way,
    which only remote code may do, is not checked; a warning says so.
    """
    ids = torch.tensor([list(tokens)], device=model.get_input_embeddings().weight.device)
    blocks = decoder_of(model).layers
    half = len(blocks) // 2
    try:
        states = run_until(model, text_inputs(model, ids), sorted({half, len(blocks) - 1}))
        require_finite(model, *states.values())
        if half == 0 or len(tokens) < 2:
            return
        with _cut_to(blocks, half):
            expected = _logits(model, ids)
            with _replaced_output(blocks[-1], states[half]):
                found = _logits(model, ids.flip(1))
    except InputError:
        raise
    except Exception as error:  # whatever code outside of transformers raises
        logging.getLogger("lenscore").warning(
            "%s cannot be checked, because it does not run on plain text or cut to %d blocks (%s)",
            type(model).__name__,
            half,
            first_line(error),
        )
        return
    if float((found - expected).norm()) > MOST_OFF * float(expected.norm()):
        raise InputError(
            f"--model {model.name_or_path}: {type(model).__name__} is not supported: the input of a block is a part of "
            f"its residual stream (cut to {half} blocks, its logits depend on other states too)"
        )


@contextmanager
def _cut_to(blocks: nn.ModuleList, depth: int) -> Iterator[None]:
    """A stack with its first `depth` blocks alone; the others are put back afterwards, the very same.

    The configuration is left alone: models iterate over their blocks, and Gemma 4 has inputs for each.
    """
    kept = dict(blocks._modules)
    try:
        for name in list(kept)[depth:]:
            del blocks._modules[name]
        yield
    finally:
        blocks._modules.update(kept)


@contextmanager
def _replaced_output(block: nn.Module, state: Tensor) -> Iterator[None]:
    def replace(_module: Any, _args: Any, output: Any) -> Any:
        return (state, *output[1:]) if isinstance(output, tuple) else state

    hook = block.register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


def _logits(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(**text_inputs(model, ids), use_cache=False).logits
    return logits.float()
