"""The blocks of a 16-bit model in float32, to tell rounding from faults, for the memory of one block more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lenscore.models.decoder import decoder_of


def has_16_bit_blocks(model: Any) -> bool:
    """Whether `blocks_in_float32` changes anything, and can be used: no quantised weights, some in 16 bits."""
    weights = [parameter for block in decoder_of(model).layers for parameter in block.parameters()]
    return all(weight.is_floating_point() for weight in weights) and any(weight.itemsize == 2 for weight in weights)


@contextmanager
def blocks_in_float32(model: Any) -> Iterator[None]:
    """Compute every block of the language model in float32, with the values of its own weights.

    Each block is converted before it runs and back afterwards, which loses nothing. States between blocks are float32.
    """

    def widen(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        block.float()
        return _in_float32(args), _in_float32(kwargs)

    with ExitStack() as hooks:
        for block in decoder_of(model).layers:
            dtype = next(block.parameters()).dtype

            def narrow(block: nn.Module, _args: Any, _output: Any, dtype: torch.dtype = dtype) -> None:
                block.to(dtype)

            # Also after an exception, which ends a forward pass as soon as the wanted state is known.
            hooks.callback(block.to, dtype)
            hooks.callback(block.register_forward_pre_hook(widen, with_kwargs=True, prepend=True).remove)
            hooks.callback(block.register_forward_hook(narrow, prepend=True).remove)
        yield


def _in_float32(given: Any) -> Any:
    """Tensors of floats in float32, also in tuples, lists and dicts; all else as it is."""
    if isinstance(given, Tensor):
        return given.float() if given.is_floating_point() else given
    if isinstance(given, dict):
        return {name: _in_float32(value) for name, value in given.items()}
    if type(given) in (tuple, list):
        return type(given)(map(_in_float32, given))
    return given
