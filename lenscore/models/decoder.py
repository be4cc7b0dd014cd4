"""The language model inside a model: found through the interfaces that every Hugging Face model has, never by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from storage_layouts.errors import InputError

DEFAULT_MAX_TOKENS = 512
"""Sentences of a corpus are cut after so many tokens, unless the user or the model says less."""

NORM_NAMES = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f")
"""What transformers calls the norm behind the last block, in one architecture or the other."""


@dataclass(frozen=True)
class Decoder:
    """The language model inside a model: a stack of blocks and the norm behind the last one.

    `layers[l]` is the block whose *input* is hidden state l. `norm` is None where the architecture has no final
    norm. `dim` is the width of the residual stream.
    """

    module: nn.Module
    layers: nn.ModuleList
    norm: nn.Module | None
    dim: int


def decoder_of(model: Any) -> Decoder:
    """Find the decoder, its blocks and its final norm in any Hugging Face language model.

    Raises InputError if the blocks cannot be told.
    """
    module = model.get_decoder()
    text_config = text_config_of(model.config)
    depth = text_config.num_hidden_layers
    stacks = [child for child in module.modules() if isinstance(child, nn.ModuleList) and len(child) == depth]
    if not stacks:
        raise InputError(
            f"{type(model).__name__}: found no stack of {depth} blocks in its decoder {type(module).__name__}"
        )
    norm = next((getattr(module, name) for name in NORM_NAMES if getattr(module, name, None) is not None), None)
    return Decoder(module, stacks[0], norm, text_config.hidden_size)


def text_config_of(config: Any) -> Any:
    """The part of a model's configuration that describes its language model."""
    return config.get_text_config(decoder=True)


def most_tokens(text_config: Any) -> int:
    """How many tokens the language model can take at once; `DEFAULT_MAX_TOKENS` where its configuration is silent."""
    return getattr(text_config, "max_position_embeddings", None) or DEFAULT_MAX_TOKENS


def number_of_layers(model: Any) -> int:
    """Number of transformer blocks N of the language model; its layers are 0..N-1."""
    return text_config_of(model.config).num_hidden_layers
