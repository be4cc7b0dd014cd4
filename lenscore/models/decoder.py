"""The language model inside a model, found through the common interfaces of Hugging Face models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from storage_layouts.errors import InputError

DEFAULT_MAX_TOKENS = 512
"""Sentences of a corpus are cut after this many tokens, unless the user or the model sets a smaller limit."""

NORM_NAMES = (
    *("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f", "final_norm", "embedding_norm"),
    *("layer_norm", "layernorm", "ln_out", "out_norm"),
)
"""Names of the norm after the last block in the architectures of transformers."""


@dataclass(frozen=True)
class Decoder:
    """A stack of blocks and the norm after the last one.

    The *input* of block `layers[l]` is hidden state l. `norm` is None if the architecture has no final norm.
    """

    module: nn.Module
    layers: nn.ModuleList
    norm: nn.Module | None


def decoder_of(model: Any) -> Decoder:
    """The decoder of any Hugging Face language model. Raises InputError if it has no stack of blocks."""
    module = model.get_decoder()
    depth = number_of_layers(model)
    stacks = (
        (parent, child)
        for parent in module.modules()
        for child in parent.children()
        if isinstance(child, nn.ModuleList) and len(child) == depth
    )
    parent, layers = next(stacks, (None, None))
    if parent is None or layers is None:
        raise InputError(
            f"{type(model).__name__}: found no stack of {depth} blocks in its decoder {type(module).__name__}"
        )
    # The decoder of Llama 4 is a model with a head; its norm is beside its blocks.
    places = ((place, name) for place in (module, parent) for name in NORM_NAMES)
    norm = next((getattr(place, name) for place, name in places if getattr(place, name, None) is not None), None)
    return Decoder(module, layers, norm)


def text_config_of(config: Any) -> Any:
    """The part of a model's configuration that describes its language model."""
    return config.get_text_config(decoder=True)


def most_tokens(text_config: Any) -> int:
    """The longest input of the language model in tokens; `DEFAULT_MAX_TOKENS` if its configuration has no limit."""
    return getattr(text_config, "max_position_embeddings", None) or DEFAULT_MAX_TOKENS


def require_room(tokens: int, text_config: Any, what: str, remedy: str) -> None:
    """Raises InputError if the language model cannot read so many tokens at once."""
    limit = getattr(text_config, "max_position_embeddings", None)
    if limit is not None and tokens > limit:
        raise InputError(f"{what}; the model reads at most {limit:,}; {remedy}")


def number_of_layers(model: Any) -> int:
    """Number of transformer blocks N of the language model; its layers are 0..N-1."""
    return text_config_of(model.config).num_hidden_layers
