"""The blocks of a 16-bit model in float32, to tell rounding from faults, for the memory of one block more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lenscore.models.decoder import decoder_of

HALVES = (torch.float16, torch.bfloat16)


def has_16_bit_blocks(model: Any) -> bool:
    """Whether `blocks_in_float32` changes anything, and can be used: some weights in 16 bits, none quantised."""
    dtypes = {weight.dtype for block in decoder_of(model).layers for weight in block.parameters()}
    return bool(dtypes & set(HALVES)) and dtypes <= {torch.float32, *HALVES}


@contextmanager
def blocks_in_float32(model: Any) -> Iterator[None]:
    """Compute every block of the language model in float32, with the values of its own weights.

    The 16-bit tensors of a block are replaced while it runs, and put back afterwards, the very same. States between
    blocks are float32.
    """
    from accelerate.utils import convert_to_fp32  # slow to import, and hardly ever needed

    kept: list[tuple[Tensor, Tensor]] = []

    def widen(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        for tensor in (*block.parameters(), *block.buffers()):
            if tensor.dtype in HALVES:
                kept.append((tensor, tensor.data))
                tensor.data = tensor.data.float()
        return convert_to_fp32(args), convert_to_fp32(kwargs)

    def put_back(*_: Any) -> None:
        while kept:
            tensor, data = kept.pop()
            tensor.data = data

    with ExitStack() as hooks:
        hooks.callback(put_back)  # also after an exception, which ends a forward pass once the wanted state is known
        for block in decoder_of(model).layers:
            hooks.callback(block.register_forward_pre_hook(widen, with_kwargs=True, prepend=True).remove)
            hooks.callback(block.register_forward_hook(put_back, prepend=True).remove)
        yield
