"""Checks that a latentlens cache was made with a given model: its tokens and its hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from torch.nn.functional import cosine_similarity

from lenscore.contexts.contextual_states import RowReader
from lenscore.models.decoder import DEFAULT_MAX_TOKENS, number_of_layers
from lenscore.models.hidden_states import after_block
from storage_layouts.errors import InputError
from storage_layouts.latentlens_files import CacheLayer

SENTENCES_AT_A_TIME = 8192
ROWS_TRIED = 64
LEAST_COSINE = 0.9
"""Least cosine of a computed state with the cached one; other devices, dtypes and float8 files stay far above it."""


def tokenizer_spans(rows: pa.Table, sentences: pa.Table, tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Character offsets of each row's token in its sentence: int32 char_start [N], char_end [N].

    Raises InputError if the tokenizer gives other tokens than the cache.
    """
    order = np.argsort(rows["sentence_id"].to_numpy(), kind="stable")
    sentence_ids = rows["sentence_id"].to_numpy()[order]
    positions, token_ids = rows["position"].to_numpy(), rows["token_id"].to_numpy()
    bounds = np.searchsorted(sentence_ids, sentences["sentence_id"].to_numpy())
    bounds = np.r_[bounds, len(order)]
    start, end = np.zeros(len(order), np.int32), np.zeros(len(order), np.int32)
    texts = sentences["text"].to_pylist()
    for first in range(0, len(texts), SENTENCES_AT_A_TIME):
        batch = texts[first : first + SENTENCES_AT_A_TIME]
        encoded = tokenizer(batch, truncation=True, max_length=DEFAULT_MAX_TOKENS, return_offsets_mapping=True)
        for number, (ids, offsets) in enumerate(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)):
            for row in order[bounds[first + number] : bounds[first + number + 1]]:
                at = int(positions[row])
                if not 0 <= at < len(ids) or ids[at] != token_ids[row]:
                    found = f"token {ids[at]}" if 0 <= at < len(ids) else "nothing"
                    raise InputError(
                        f"--model: its tokenizer has {found} at position {at} of {batch[number]!r}, the cache has "
                        f"token {token_ids[row]}; give the model that the cache was made with"
                    )
                start[row], end[row] = offsets[at]
    return start, end


def require_model_of(caches: Mapping[int, CacheLayer], model: Any, tokenizer: Any) -> None:
    """Compute some rows and compare. Raises InputError if the caches were made with other weights."""
    depth = number_of_layers(model)
    for layer, cache in caches.items():
        if layer >= depth:
            raise InputError(f"--model: has layers 0 to {depth - 1}, but the cache has a layer {layer}")
        table = cache.rows
        ids = table["sentence_id"].to_numpy()
        few = np.flatnonzero(np.isin(ids, np.unique(ids)[:ROWS_TRIED]))[:ROWS_TRIED]
        few = few[np.lexsort((table["position"].to_numpy()[few], ids[few]))]
        output = after_block(layer)
        reader = RowReader(
            model, tokenizer, [layer, output], batch_tokens=4096, max_tokens=DEFAULT_MAX_TOKENS, causal=True
        )
        texts = dict(zip(cache.sentences["sentence_id"].to_pylist(), cache.sentences["text"].to_pylist(), strict=True))
        states = reader.states(table.take(pa.array(few)), texts)
        cosines = {
            name: float(cosine_similarity(found.float().cpu(), cache.embeddings[few].float(), dim=1).min())
            for name, found in states.items()
        }
        least = cosines[layer]
        if not least >= LEAST_COSINE and cosines[output] >= LEAST_COSINE:
            raise InputError(
                f"--model: the cache's layer {layer} holds outputs of block {layer}, which are layer {layer + 1} here "
                f"(latentlens counts so in {type(model).__name__}); make a store with `lens extract`"
            )
        if not least >= LEAST_COSINE:
            raise InputError(
                f"--model: its layer {layer} gives states with a cosine of {least:.3f} to those of the cache, expected "
                f"at least {LEAST_COSINE}; give the model that the cache was made with"
            )
