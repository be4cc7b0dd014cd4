"""An index in memory, straight from a model and a corpus: the engine of `extract`, without the store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lenscore.corpus import load_corpus
from lenscore.index import ContextualIndex, LayerCodes
from lenscore.models import (
    DEFAULT_MAX_TOKENS,
    SUPPORTED_MODELS,
    load_model,
    most_tokens,
    number_of_layers,
    paper_layers,
    resolve_layers,
    text_config_of,
)
from lenscore.row_states import RowReader
from lenscore.row_table import RowChoice, choose_rows
from storage_layouts.quantize import choose_outlier_dims, encode, outlier_count


def build_index(
    model_name: str | os.PathLike[str],
    corpus: str | Path | Sequence[str],
    layers: Sequence[int] | None = None,
    max_contexts_per_token: int = 50,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    model: Any = None,
    tokenizer: Any = None,
    *,
    batch_tokens: int = 8192,
    encoding: str = "float16",
) -> ContextualIndex:
    """Run a corpus through a language model and return the index of its contextual embeddings.

    Names and meaning are those of the latentlens library: of each token the first `max_contexts_per_token` distinct
    contexts from position 2 on are kept. `corpus` is a path or a list of sentences; `layers` default to those of
    the paper. A loaded `model` comes with its `tokenizer`. Raises InputError for a layer that the model does not
    have, and for what `load_model` and `load_corpus` refuse.
    """
    if (model is None) != (tokenizer is None):
        raise TypeError("build_index: model and tokenizer come together, found only one of them")
    if model is None:
        model, tokenizer = load_model(model_name, device, dtype)
    depth = number_of_layers(model)
    asked = layers or SUPPORTED_MODELS.get(str(model_name)) or paper_layers(depth, visual=False)
    chosen = resolve_layers(asked, depth, visual=False, flag="layers")
    texts = load_corpus(corpus)
    max_tokens = min(DEFAULT_MAX_TOKENS, most_tokens(text_config_of(model.config)))
    choice = RowChoice(per_token=max_contexts_per_token, sampling="first", first_position=2, max_tokens=max_tokens)
    table = choose_rows(lambda: iter(texts), tokenizer, choice)
    reader = RowReader(model, tokenizer, chosen, batch_tokens=batch_tokens, max_tokens=max_tokens, causal=True)
    sentences = table.sentences
    states = reader.states(
        table.rows, dict(zip(sentences["sentence_id"].to_pylist(), sentences["text"].to_pylist(), strict=True))
    )
    codes = {}
    for layer in chosen:
        dims = choose_outlier_dims(states[layer], outlier_count(encoding, states[layer].shape[1]), f"layer {layer}")
        encoded = encode(states.pop(layer), encoding, dims, context=f"layer {layer}")
        codes[layer] = LayerCodes(encoded, encoding, dims)
    return ContextualIndex(codes, table.rows, sentences)
