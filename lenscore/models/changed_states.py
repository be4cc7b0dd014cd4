"""Forward passes of a model with other hidden states at some places of its prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from lenscore.models.decoder import decoder_of


class ChangedStates(NamedTuple):
    """Positions int64 [m] of a sequence, ascending, and the states [m, dim] there."""

    positions: Tensor
    states: Tensor


@contextmanager
def states_changed(model: Any, layer: int, changed: Sequence[ChangedStates]) -> Iterator[None]:
    """In the first pass in this block, the input of block `layer` has other states, in each sequence of a batch.

    So an answer that is generated begins with them; what is generated keeps its own states.
    """

    def replace(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        hook.remove()
        given = (args[0] if args else kwargs["hidden_states"]).clone()
        for sequence, one in zip(given, changed, strict=True):
            sequence[one.positions.to(given.device)] = one.states.to(given.device, given.dtype)
        return ((given, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": given})

    hook = decoder_of(model).layers[layer].register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
