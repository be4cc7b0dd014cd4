"""An index in memory from a model and a corpus: what `lens extract` computes, without the store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from lenscore.contexts.context_table import choose_rows
from lenscore.contexts.contextual_states import RowReader
from lenscore.contexts.corpus import load_corpus
from lenscore.contexts.row_choice import RowChoice
from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.layer_builder import LayerBuilder
from lenscore.models.decoder import DEFAULT_MAX_TOKENS, most_tokens, number_of_layers, text_config_of
from lenscore.models.hidden_states import FINAL
from lenscore.models.layers import SUPPORTED_MODELS, auto_layers, default_layers
from lenscore.models.loading import load_model
from lenscore.models.text_only import is_causal, ordinary_tokens
from storage_layouts.errors import InputError

ROWS_AT_A_TIME = 8192
TOKENS_OF_A_SENTENCE = 256
"""Length of the sentences that `batch_size` counts."""


def build_index(
    model_name: str | os.PathLike[str],
    corpus: str | Path | Sequence[str],
    layers: Sequence[int] | None = None,
    max_contexts_per_token: int = 50,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = torch.float32,
    show_progress: bool = True,
    model: Any = None,
    tokenizer: Any = None,
    *,
    encoding: str = "float32",
    revision: str | None = None,
) -> ContextualIndex:
    """Run a corpus through a language model and return the index of its contextual embeddings.

    Arguments have the names and meaning of the latentlens library. Of the tokens with the same text the first
    `max_contexts_per_token` distinct contexts from position 2 on are kept.

    Args:
        model_name: a folder or a Hub name.
        corpus: a path or a list of sentences.
        layers: layer l < N is the input of block l, layer N the state after the final norm; by default the model's
            "default_layers" in `SUPPORTED_MODELS`, else `auto_layers`.
        max_contexts_per_token: contexts for each token.
        batch_size: sentences of 256 tokens, or more shorter ones, in a forward pass.
        device: as in `load_model`.
        dtype: of the weights; None keeps the checkpoint's dtype.
        show_progress: show a progress bar.
        model: a loaded model, which stays on its device; the index is there too, and `device` and `dtype` are not used.
        tokenizer: of the loaded model.
        encoding: of the embeddings in memory ("int8" and "float8_e4m3fn" take a quarter of "float32"; int8 is
            closer to it).
        revision: branch, tag or commit of a Hub model.

    Raises:
        InputError: for a layer that the model does not have, for an invalid entry of `SUPPORTED_MODELS`, and as in
            `load_model` and `load_corpus`.

    """
    if model is not None and revision:
        raise TypeError("build_index: found a revision and a loaded model, expected one of them")
    if (model is None) != (tokenizer is None):
        raise TypeError("build_index: expected model and tokenizer together, found only one of them")
    if model is None:
        model, tokenizer = load_model(model_name, device, dtype, revision=revision)
    depth = number_of_layers(model)
    chosen = _layers(layers, str(model_name), depth)
    names: dict[int, int | str] = {layer: FINAL if layer == depth else layer for layer in chosen}
    texts = load_corpus(corpus)
    max_tokens = min(DEFAULT_MAX_TOKENS, most_tokens(text_config_of(model.config)))
    probe = ordinary_tokens(tokenizer, 8)
    causal = len(probe) < 2 or is_causal(model, probe)
    choice = RowChoice(
        causal=causal,
        per_token=max_contexts_per_token,
        sampling="first",
        first_position=2,
        max_tokens=max_tokens,
        as_latentlens=True,
    )
    table = choose_rows(lambda: iter(texts), tokenizer, choice)
    reader = RowReader(
        model,
        tokenizer,
        list(names.values()),
        batch_tokens=batch_size * TOKENS_OF_A_SENTENCE,
        max_tokens=max_tokens,
        causal=causal,
    )
    ids, sentences = table.sentences["sentence_id"].to_pylist(), table.sentences["text"].to_pylist()
    known = dict(zip(ids, sentences, strict=True))
    rows = table.rows.num_rows
    builders = {layer: LayerBuilder(rows, encoding, f"layer {layer}") for layer in chosen}
    firsts = track(
        range(0, rows, ROWS_AT_A_TIME), "building the index", disable=not show_progress, console=Console(stderr=True)
    )
    for first in firsts:
        states = reader.states(table.rows.slice(first, ROWS_AT_A_TIME), known)
        for layer, builder in builders.items():
            builder.add(states.pop(names[layer]))
    codes = {layer: builder.finish() for layer, builder in builders.items()}
    return ContextualIndex(codes, table.rows, table.sentences)


def _layers(requested: Sequence[int] | None, model_name: str, depth: int) -> list[int]:
    """The layers to keep, ascending. Raises InputError for one that the model does not have, and for negative ones."""
    if not requested:
        requested = default_layers(model_name) if model_name in SUPPORTED_MODELS else auto_layers(depth)
    for layer in requested:
        if not 0 <= layer <= depth:
            raise InputError(
                f"layers: layer {layer} does not exist; the model has {depth} blocks, so layers 0 to {depth - 1}, "
                f"and {depth} for the state after the final norm"
            )
    return sorted(set(requested))
