"""The row table of an embedding store: which (token, sentence, position) become rows, chosen without a model.

The first pass over the corpus chooses contexts from token ids, the second collects their sentences with character
offsets. A small corpus is read and tokenised only once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from lenscore.contexts.sampling import Contexts, ContextSampler, Sampling, prefix_contexts
from lenscore.contexts.tokenization import character_spans, tokenize, tokenize_with_spans
from lenscore.models.text_only import no_text_ids
from storage_layouts.counts import counted
from storage_layouts.errors import InputError

SENTENCES_A_BATCH = 8192

SMALL = 2**22
"""Tokens of a corpus that is held in memory, with eight bytes a token and its text, instead of being read twice."""


@dataclass(frozen=True)
class RowChoice:
    """Which contexts are kept: `per_token` for each distinct token, by `sampling` and `seed` (see `ContextSampler`).

    `causal` models have states that depend only on their prefix. Positions before `first_position` are left out,
    sentences are cut after `max_tokens`. `fraction` is the share of sentences, chosen by a hash of seed and text;
    `limit` their number. Tokens whose text is one of the words `leave_out` never become rows. `as_latentlens`:
    `per_token` counts tokens that decode to the same text together, and special tokens in a sentence become rows too.
    """

    per_token: int = 20
    sampling: Sampling = "uniform"
    seed: int = 0
    causal: bool = True
    first_position: int = 0
    max_tokens: int = 512
    fraction: float = 1.0
    limit: int | None = None
    leave_out: frozenset[str] = frozenset()
    as_latentlens: bool = False


@dataclass(frozen=True)
class RowTable:
    """The chosen rows and their sentences.

    `rows`: row, token_id, token, sentence_id, position, char_start, char_end, ordered by sentence and position.
    `sentences`: sentence_id, text, ordered by sentence_id, which counts the sentences of the corpus.
    `sentences_cut` are those with more than `RowChoice.max_tokens` tokens.
    """

    rows: pa.Table
    sentences: pa.Table
    sentences_read: int
    contexts_seen: int
    sentences_cut: int


def choose_rows(
    corpus: Callable[[], Iterator[str]],
    tokenizer: Any,
    choice: RowChoice,
    progress: Callable[[str], None] = lambda message: None,
) -> RowTable:
    """Stream `corpus()`, twice if it is not `SMALL`, and return the rows that `choice` keeps.

    Special tokens (BOS, padding, image placeholders) never become rows, unless `RowChoice.as_latentlens`. Memory
    depends on the rows that are kept, and on no more of the corpus than `SMALL`. Raises InputError if the corpus has no
    usable token.
    """
    special = _special_tokens(tokenizer)
    by_text = _ByText(tokenizer, len(special)) if choice.as_latentlens else None
    if by_text:
        special[:] = False
    if choice.leave_out:
        special |= _tokens_of(choice.leave_out, tokenizer, len(special))
    sampler = ContextSampler(
        choice.per_token, len(special), choice.sampling, groups=by_text.groups if by_text else None
    )
    sentences_read = contexts_seen = sentences_cut = 0
    small: _SmallCorpus | None = _SmallCorpus()
    for batch in _batches(_numbered(corpus(), choice)):
        texts = [text for _, text in batch]
        if small is None:
            encoded = tokenize(texts, tokenizer, choice.max_tokens)
        else:
            encoded, spans = tokenize_with_spans(texts, tokenizer, choice.max_tokens)
            small.add(batch, encoded, spans)
            small = small if small.tokens <= SMALL else None
        sentences_cut += _count_cut(batch, encoded, tokenizer, choice.max_tokens)
        ids = [number for number, _ in batch]
        contexts = prefix_contexts(
            encoded, ids, choice.seed, causal=choice.causal, first_position=choice.first_position
        )
        contexts = contexts.pick(~special[contexts.token])
        if by_text:
            by_text.add(contexts.token)
        sampler.add(contexts)
        sentences_read += len(batch)
        contexts_seen += len(contexts)
        cut = "".join(f"; {line}" for line in cut_sentences(sentences_cut, choice.max_tokens))
        progress(f"planning: {counted(sentences_read, 'sentence')}, {counted(contexts_seen, 'token')} read{cut}")
    if not sentences_read:
        raise InputError("--corpus: holds no sentence (or --fraction left none)")
    kept = sampler.kept()
    if not len(kept):
        raise InputError("--corpus: holds no token that could become a row (only special tokens, or too short)")
    progress(f"planning: {counted(len(kept), 'row')} chosen; collecting their sentences")
    sentence_ids, texts, of_rows = small.described(kept) if small else _described(corpus, tokenizer, choice, kept)
    rows, sentences = _tables(tokenizer, kept, sentence_ids, texts, of_rows)
    return RowTable(rows, sentences, sentences_read, contexts_seen, sentences_cut)


def cut_sentences(count: int, max_tokens: int) -> list[str]:
    """A line about the sentences that are longer than `max_tokens`, if there are any."""
    return [f"sentences cut after {max_tokens:,} tokens: {count:,}"] if count else []


def _count_cut(batch: list[tuple[int, str]], encoded: list[list[int]], tokenizer: Any, max_tokens: int) -> int:
    full = [text for (_, text), ids in zip(batch, encoded, strict=True) if len(ids) >= max_tokens]
    return sum(len(ids) > max_tokens for ids in tokenize(full, tokenizer, max_tokens + 1))


class _ByText:
    """Gives token ids with the same text the same number: `groups` int64 [vocabulary], -1 if not yet seen."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self.groups = np.full(vocabulary, -1, dtype=np.int64)
        self._tokenizer = tokenizer
        self._numbers: dict[str, int] = {}

    def add(self, tokens: np.ndarray) -> None:
        """Give each of the tokens its number."""
        for token in np.unique(tokens[self.groups[tokens] < 0]).tolist():
            text = self._tokenizer.decode([token])
            self.groups[token] = self._numbers.setdefault(text, len(self._numbers))


def _special_tokens(tokenizer: Any) -> np.ndarray:
    """Mask over all token ids: True for special tokens."""
    ids = no_text_ids(tokenizer)
    mask = np.zeros(max([len(tokenizer) - 1, *ids]) + 1, dtype=bool)
    mask[list(tokenizer.all_special_ids)] = True
    mask[[i for i, token in tokenizer.added_tokens_decoder.items() if token.special]] = True
    return mask


def _tokens_of(words: frozenset[str], tokenizer: Any, size: int) -> np.ndarray:
    """Mask over all token ids: True for tokens whose text is one of the words. InputError for a word of no token."""
    texts = [text.strip() for text in tokenizer.batch_decode([[token] for token in range(size)])]
    if unknown := sorted(words.difference(texts)):
        raise InputError(
            f"--leave-out: {unknown[0]!r} is not one token of this model, so no row has it; expected whole words as "
            "they are in its vocabulary"
        )
    return np.array([text in words for text in texts])


def _numbered(texts: Iterable[str], choice: RowChoice) -> Iterator[tuple[int, str]]:
    numbered = enumerate(islice(texts, choice.limit))
    if choice.fraction >= 1:
        return numbered
    return ((number, text) for number, text in numbered if hashed_share(choice.seed, text) < choice.fraction)


def hashed_share(seed: int, text: str) -> float:
    """A number in [0, 1) that depends only on (seed, text)."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, salt=seed.to_bytes(16, "little"))
    return int.from_bytes(digest.digest(), "little") / 2**64


def _batches(numbered: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    while batch := list(islice(numbered, SENTENCES_A_BATCH)):
        yield batch


def _wanted(numbered: Iterator[tuple[int, str]], ids: np.ndarray) -> Iterator[tuple[int, str]]:
    """The numbered sentences whose numbers are in `ids`, which ascend."""
    numbers = iter(ids)
    wanted = next(numbers)
    for number, text in numbered:
        if number == wanted:
            yield number, text
            wanted = next(numbers, -1)


class _SmallCorpus:
    """The sentences that were read, and the characters of their tokens."""

    def __init__(self) -> None:
        self.tokens = 0
        self._sentences: list[tuple[int, str]] = []
        self._lengths: list[int] = []
        self._spans: list[np.ndarray] = []

    def add(self, batch: list[tuple[int, str]], encoded: list[list[int]], spans: np.ndarray) -> None:
        """Take sentences, their token ids and the characters of all these tokens."""
        self._sentences += batch
        self._lengths += map(len, encoded)
        self._spans.append(spans)
        self.tokens += len(spans)

    def described(self, kept: Contexts) -> tuple[np.ndarray, list[str], np.ndarray]:
        """As `_described`."""
        numbers = np.array([number for number, _ in self._sentences])
        ends = np.cumsum(self._lengths)
        sentence_ids = np.unique(kept.sentence)
        first_token = (ends - self._lengths)[np.searchsorted(numbers, kept.sentence)]
        texts = [self._sentences[place][1] for place in np.searchsorted(numbers, sentence_ids).tolist()]
        return sentence_ids, texts, np.concatenate(self._spans)[first_token + kept.position]


def _described(
    corpus: Callable[[], Iterator[str]], tokenizer: Any, choice: RowChoice, kept: Contexts
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """A second pass over the corpus, for what lies in it of these contexts.

    Returns the numbers of their sentences, ascending, the texts of these, and the characters of each context's last
    token, int32 [contexts, 2].
    """
    sentence_ids, first_row = np.unique(kept.sentence, return_index=True)
    bounds = np.append(first_row, len(kept))
    texts: list[str] = []
    spans = np.empty((len(kept), 2), dtype=np.int32)
    for batch in _batches(_wanted(_numbered(corpus(), choice), sentence_ids)):
        found = [text for _, text in batch]
        rows = bounds[len(texts) : len(texts) + len(found) + 1]
        positions = np.split(kept.position[rows[0] : rows[-1]], rows[1:-1] - rows[0])
        try:
            spans[rows[0] : rows[-1]] = character_spans(found, positions, tokenizer, choice.max_tokens)
        except IndexError:  # a sentence that became shorter
            break
        texts += found
    if len(texts) != len(sentence_ids):
        raise InputError("--corpus: changed while it was being read; repeat the command")
    return sentence_ids, texts, spans


def _tables(
    tokenizer: Any, kept: Contexts, sentence_ids: np.ndarray, texts: list[str], spans: np.ndarray
) -> tuple[pa.Table, pa.Table]:
    """The row table and the table of sentences."""
    names = {int(token): tokenizer.decode([int(token)]) for token in np.unique(kept.token)}
    rows = pa.table(
        {
            "row": pa.array(np.arange(len(kept), dtype=np.int64)),
            "token_id": pa.array(kept.token),
            "token": pa.array([names[int(token)] for token in kept.token], pa.string()),
            "sentence_id": pa.array(kept.sentence),
            "position": pa.array(kept.position),
            "char_start": pa.array(spans[:, 0]),
            "char_end": pa.array(spans[:, 1]),
        }
    )
    return rows, pa.table({"sentence_id": pa.array(sentence_ids), "text": pa.array(texts, pa.string())})
