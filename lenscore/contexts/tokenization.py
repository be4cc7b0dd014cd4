"""Texts to token ids, and tokens to their characters, in bulk.

An ordinary call of a Hugging Face tokenizer spends half of its time on Python objects that are not needed here. If a
tokenizer adds nothing to its Rust backend, the backend is called directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

_PYTHON_SIDE = ("__call__", "_encode_plus", "_convert_encoding", "set_truncation_and_padding")


def tokenize(texts: list[str], tokenizer: Any, max_tokens: int) -> list[list[int]]:
    """Token ids of each text with special tokens, cut after `max_tokens`."""
    if not texts:
        return []
    if (backend := _backend(tokenizer, max_tokens)) is not None:
        return [encoding.ids for encoding in backend.encode_batch_fast(texts)]
    return _call(tokenizer, texts, max_tokens)["input_ids"]


def tokenize_with_spans(texts: list[str], tokenizer: Any, max_tokens: int) -> tuple[list[list[int]], NDArray[np.int32]]:
    """As `tokenize`, and the character offsets (start, end) of all these tokens in turn: int32 [tokens, 2]."""
    if texts and (backend := _backend(tokenizer, max_tokens)) is not None:
        encodings = backend.encode_batch(texts)
        ids, offsets = [one.ids for one in encodings], (one.offsets for one in encodings)
    else:
        found = _call(tokenizer, texts, max_tokens, return_offsets_mapping=True) if texts else {}
        ids, offsets = found.get("input_ids", []), iter(found.get("offset_mapping", []))
    spans = np.fromiter(chain.from_iterable(chain.from_iterable(offsets)), np.int32, count=2 * sum(map(len, ids)))
    return ids, spans.reshape(-1, 2)


def character_spans(
    texts: list[str], positions: Sequence[NDArray[np.integer]], tokenizer: Any, max_tokens: int
) -> NDArray[np.int32]:
    """Character offsets of tokens in their texts: int32 [n, 2], (start, end).

    `positions[i]` [k] are tokens of `texts[i]`, counted as in `tokenize`; the results are concatenated. Raises
    IndexError for a position that a text does not have.
    """
    spans: list[tuple[int, int]] = []
    if texts and (backend := _backend(tokenizer, max_tokens)) is not None:
        for encoding, requested in zip(backend.encode_batch(texts), positions, strict=True):
            for position in requested.tolist():
                # `offsets` builds a list of all tokens, which is slow; only template tokens need it.
                spans.append(encoding.token_to_chars(position) or encoding.offsets[position])
    elif texts:
        offsets = _call(tokenizer, texts, max_tokens, return_offsets_mapping=True)["offset_mapping"]
        spans = [of[p] for of, requested in zip(offsets, positions, strict=True) for p in requested.tolist()]
    return np.asarray(spans, dtype=np.int32).reshape(-1, 2)


def _backend(tokenizer: Any, max_tokens: int) -> Any | None:
    """The Rust backend of a tokenizer; None if a subclass overrides a method between a call and the backend."""
    kind, fast = type(tokenizer), PreTrainedTokenizerFast
    if not issubclass(kind, fast) or any(getattr(kind, name) is not getattr(fast, name) for name in _PYTHON_SIDE):
        return None
    _call(tokenizer, [""], max_tokens)  # sets truncation, padding and special tokens of the backend
    return tokenizer.backend_tokenizer


def _call(tokenizer: Any, texts: list[str], max_tokens: int, **more: Any) -> Any:
    return tokenizer(texts, truncation=True, max_length=max_tokens, return_attention_mask=False, **more)
