"""The candidates of lenses over the vocabulary, and the search over them in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lenscore.index.topk import TopK, count_above, merge, require_finite, top_of_block
from lenscore.models.text_only import no_text_ids
from storage_layouts.errors import InputError

QUERIES_PER_BLOCK = 1024
TOKENS_PER_BLOCK = 16384


def excluded_tokens(tokenizer: Any, rows: int) -> list[int]:
    """Token ids below `rows` that are not text, ascending.

    These are special tokens (BOS, EOS, PAD, UNK), every added token (<image>, <|im_start|> and so on), and the
    untrained rows of a padded embedding matrix that are not in the tokenizer.
    """
    no_text = no_text_ids(tokenizer)
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
        for block in _blocks(rows):
            scores = _of_candidates(score(chunk, block), block, excluded)
            top = top_of_block(scores, k, block.start)
            best = top if best is None else merge([best, top], k)
        assert best is not None
        found.append(best)
    return require_finite(TopK.concatenate(found, dim=0), what)


class TokenScores(NamedTuple):
    """Scores float32 [words, n] and ranks int64 [words, n] of words, and, if asked for, log sums float32 [n]."""

    scores: Tensor
    ranks: Tensor
    log_sums: Tensor | None


def score_in_vocabulary(
    queries: Tensor,
    score: Callable[[Tensor, slice], Tensor],
    excluded: Tensor,
    rows: int,
    words: Sequence[Sequence[int]],
    what: str,
    logits: Callable[[Tensor], Tensor] | None = None,
) -> TokenScores:
    """The scores of words, each the mean of those of its tokens, and their ranks among the scores of single tokens.

    `words` are the token ids of each word; the other arguments are those of `search_vocabulary`. With `logits`, which
    makes logits of scores, the result has the log sum exp of those of all tokens, excluded ones too. The vocabulary is
    passed over twice, the first time only where the words are, with the same products: a token never outranks itself.
    Raises InputError for a token that is no candidate, ValueError if a score is not finite.
    """
    none = set(excluded.tolist())
    for token in (token for word in words for token in word):
        if token in none or not 0 <= token < rows:
            raise InputError(f"{what}: token {token} is no candidate, so its word has no score")
    parts = [_score_chunk(chunk, score, excluded, rows, words, logits) for chunk in queries.split(QUERIES_PER_BLOCK)]
    scores, ranks, log_sums = zip(*parts, strict=True)
    found = TokenScores(
        torch.cat(scores, dim=1), torch.cat(ranks, dim=1), torch.cat(log_sums) if logits is not None else None
    )
    if not bool(found.scores.isfinite().all()):
        raise ValueError(f"{what}: a word has a score that is not finite; expected finite numbers in the references")
    return found


def _score_chunk(
    queries: Tensor,
    score: Callable[[Tensor, slice], Tensor],
    excluded: Tensor,
    rows: int,
    words: Sequence[Sequence[int]],
    logits: Callable[[Tensor], Tensor] | None,
) -> TokenScores:
    of_token: dict[int, Tensor] = {}
    for block in _blocks(rows):
        inside = sorted({token for word in words for token in word if block.start <= token < block.stop})
        if inside:
            scores = score(queries, block)
            of_token |= {token: scores[:, token - block.start].clone() for token in inside}
    asked = torch.stack([torch.stack([of_token[token] for token in word]).mean(dim=0) for word in words])
    above = torch.zeros_like(asked, dtype=torch.int64)
    log_sums = torch.full_like(asked[0], -torch.inf)
    for block in _blocks(rows):
        scores = score(queries, block)
        if logits is not None:
            log_sums = torch.logaddexp(log_sums, logits(scores).logsumexp(dim=1))
        above += count_above(_of_candidates(scores, block, excluded), asked)
    return TokenScores(asked, above + 1, log_sums)


def _blocks(rows: int) -> Iterator[slice]:
    for first in range(0, rows, TOKENS_PER_BLOCK):
        yield slice(first, min(first + TOKENS_PER_BLOCK, rows))


def _of_candidates(scores: Tensor, block: slice, excluded: Tensor) -> Tensor:
    """Scores [n, tokens] of a block, changed in place: -inf for tokens that are no candidates."""
    inside = excluded[(excluded >= block.start) & (excluded < block.stop)] - block.start
    return scores.index_fill_(1, inside, -torch.inf)
