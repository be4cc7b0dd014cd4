"""The candidates of lenses over the vocabulary, and the search over them in blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lenscore.index.topk import TopK, merge, require_finite, top_of_block
from storage_layouts.errors import InputError

QUERIES_PER_BLOCK = 1024
TOKENS_PER_BLOCK = 16384


def excluded_tokens(tokenizer: Any, rows: int) -> list[int]:
    """Token ids below `rows` that are not text, ascending.

    These are special tokens (BOS, EOS, PAD, UNK), every added token (<image>, <|im_start|> and so on), and the
    untrained rows of a padded embedding matrix that are not in the tokenizer.
    """
    no_text = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    known = set(tokenizer.get_vocab().values())
    return [i for i in range(rows) if i in no_text or i not in known]


def search_vocabulary(
    queries: Tensor, score: Callable[[Tensor, slice], Tensor], excluded: Tensor, rows: int, k: int, what: str
) -> TopK:
    """The k best token ids of every query, without a matrix of all [n, rows] scores.

    `queries` float32 [n, dim]; `score(queries, rows)` returns float32 scores [n, len(rows)] of a slice of tokens;
    `excluded` are token ids (int64, ascending) that are no candidates; `what` names the lens in errors. Raises
    InputError if k is larger than the number of candidates, ValueError if a score is not finite.
    """
    candidates = rows - len(excluded)
    if not 1 <= k <= candidates:
        raise InputError(f"--top-k {k}: {what} has {candidates} candidate tokens; expected 1 to {candidates}")
    found = []
    for chunk in queries.split(QUERIES_PER_BLOCK):
        best: TopK | None = None
        for first in range(0, rows, TOKENS_PER_BLOCK):
            stop = min(first + TOKENS_PER_BLOCK, rows)
            scores = score(chunk, slice(first, stop))
            inside = excluded[(excluded >= first) & (excluded < stop)] - first
            scores.index_fill_(1, inside, -torch.inf)
            block = top_of_block(scores, k, first)
            best = block if best is None else merge([best, block], k)
        assert best is not None
        found.append(best)
    return require_finite(TopK.concatenate(found, dim=0), what)
