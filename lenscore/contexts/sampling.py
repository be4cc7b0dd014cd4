"""Which contexts of each token are kept: chosen from token ids, before any forward pass.

A *context* is a prefix of a sentence, up to and including its last token. In a causal language model equal prefixes
give equal hidden states, so they are one candidate. Of each token's prefixes those with the smallest hash(seed, prefix)
are kept (bottom-k sampling): uniform over distinct contexts, independent of the order of the corpus, and mergeable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from lenscore.contexts.choice_by_hash import Sampling

UInt64 = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix64(x: UInt64) -> UInt64:
    """The finaliser of SplitMix64 (Steele et al. 2014): a bijection of 64-bit integers that scatters them."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Contexts:
    """Contexts, one entry each in all arrays [n].

    `token` is the id of the prefix's last token, `hash` [n, 2] the 128-bit identity of the prefix (its first half is
    also its rank in uniform sampling), `sentence` and `position` its place (positions count all tokens, BOS included).
    `span` [n, 2] is (start, end) of the last token among the characters of its sentence, -1 if they were not asked for.
    """

    token: NDArray[np.int32]
    hash: UInt64
    sentence: NDArray[np.int64]
    position: NDArray[np.int32]
    span: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.token)

    def pick(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> Contexts:
        """The entries selected by indices or a mask."""
        return Contexts(*(part[chosen] for part in vars(self).values()))

    def without_repetitions(self) -> Contexts:
        """The entries whose hash is not that of the entry before."""
        is_new = np.ones(len(self), dtype=bool)
        is_new[1:] = (self.hash[1:] != self.hash[:-1]).any(axis=1)
        return self.pick(is_new)

    @staticmethod
    def concatenate(parts: list[Contexts]) -> Contexts:
        """All entries of all parts."""
        return Contexts(*map(np.concatenate, zip(*(vars(part).values() for part in parts), strict=True)))


def prefix_contexts(
    sentences: list[list[int]],
    sentence_ids: Sequence[int] | NDArray[np.int64],
    seed: int,
    *,
    causal: bool = True,
    first_position: int = 0,
    spans: NDArray[np.int32] | None = None,
) -> Contexts:
    """Every prefix of every sentence, hashed.

    `sentences` are token ids, `sentence_ids` their ids in the corpus. The hash of a prefix is a chain,
    h(t_0..t_p) = mix64(h(t_0..t_{p-1}) xor mix64(t_p + golden)), in two lanes that start from the seed. If the model is
    not `causal`, a state depends on the whole sentence, so the hash is one of (sentence, position). Positions below
    `first_position` are left out. `spans` int32 [tokens, 2] are the characters of all tokens in turn.
    """
    lengths = np.fromiter((len(ids) for ids in sentences), dtype=np.int64, count=len(sentences))
    total = int(lengths.sum())
    tokens = np.fromiter(chain.from_iterable(sentences), dtype=np.int64, count=total)
    starts = np.cumsum(lengths) - lengths
    longest_first = np.argsort(-lengths, kind="stable")
    starts_by_length, lengths_by_length = starts[longest_first], lengths[longest_first]

    hashes = np.empty((total, 2), dtype=np.uint64)
    lanes = mix64(np.array([2 * seed, 2 * seed + 1], dtype=np.uint64) + _GOLDEN)
    state = np.repeat(lanes[None], len(sentences), axis=0)
    for p in range(int(lengths.max(initial=0))):
        reaching = int(np.searchsorted(-lengths_by_length, -p, side="left"))
        here = starts_by_length[:reaching] + p
        step = mix64(tokens[here].astype(np.uint64) + _GOLDEN)
        state[:reaching] = mix64(state[:reaching] ^ step[:, None])
        hashes[here] = state[:reaching]

    index = np.repeat(np.arange(len(sentences)), lengths)
    position = np.arange(total) - starts[index]
    if not causal and total:
        whole = hashes[starts + lengths - 1]  # an arbitrary entry for an empty sentence, which has no positions
        hashes = mix64(whole[index] ^ mix64(position.astype(np.uint64) + _GOLDEN)[:, None])
    sentence = np.asarray(sentence_ids, dtype=np.int64)[index]
    span = np.full((total, 2), -1, dtype=np.int32) if spans is None else spans
    contexts = Contexts(tokens.astype(np.int32), hashes, sentence, position.astype(np.int32), span)
    return contexts.pick(position >= first_position) if first_position else contexts


class ContextSampler:
    """Keeps at most `per_token` distinct contexts of each token of a stream.

    "uniform" keeps the smallest hashes, "first" the earliest in the corpus. A context that occurs several times is
    recorded at its first occurrence. Memory: the kept contexts, and as many candidates, or `buffer` if that is more.

    `groups` int [vocabulary] gives tokens that are counted together the same number; None counts each token separately.
    It is read at every call, so the caller may fill it in as tokens occur.
    """

    def __init__(
        self,
        per_token: int,
        vocabulary: int,
        sampling: Sampling = "uniform",
        buffer: int = 2**17,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        self.per_token = per_token
        self.sampling = sampling
        self._groups = np.arange(vocabulary) if groups is None else groups
        self._buffer = buffer
        self._parts = [prefix_contexts([], [], 0)]
        self._pending = 0
        self._limit = np.full(vocabulary, np.iinfo(np.uint64).max, dtype=np.uint64)

    def add(self, contexts: Contexts) -> None:
        """Add candidates, in any order."""
        contexts = contexts.pick(self._rank(contexts) <= self._limit[self._groups[contexts.token]])
        self._parts.append(contexts)
        self._pending += len(contexts)
        if self._pending > max(self._buffer, len(self._parts[0])):
            self._compact()

    def kept(self) -> Contexts:
        """The chosen contexts, ordered by sentence and position."""
        self._compact()
        (kept,) = self._parts
        return kept.pick(np.lexsort((kept.position, kept.sentence)))

    def _rank(self, contexts: Contexts) -> UInt64:
        if self.sampling == "uniform":
            return contexts.hash[:, 0]
        # Sentences are far fewer than 2^40 and far shorter than 2^24 tokens.
        return (contexts.sentence.astype(np.uint64) << np.uint64(24)) | contexts.position.astype(np.uint64)

    def _compact(self) -> None:
        merged = self._distinct(Contexts.concatenate(self._parts))
        group = self._groups[merged.token]
        starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if len(merged) else np.empty(0, int)
        counts = np.diff(np.r_[starts, len(merged)])
        place = np.arange(len(merged)) - np.repeat(starts, counts)
        full = counts >= self.per_token
        last_kept = starts[full] + self.per_token - 1
        self._limit[group[last_kept]] = self._rank(merged)[last_kept]
        self._parts = [merged.pick(place < self.per_token)]
        self._pending = 0

    def _distinct(self, contexts: Contexts) -> Contexts:
        """Each context once, at its first occurrence, ordered by group and rank."""
        if self.sampling == "uniform":
            # The hash is the rank, so equal contexts are neighbours in this order.
            return contexts.pick(self._order(contexts)).without_repetitions()
        by_hash = np.lexsort((contexts.sentence, contexts.hash[:, 1], contexts.hash[:, 0]))
        distinct = contexts.pick(by_hash).without_repetitions()
        return distinct.pick(self._order(distinct))

    def _order(self, contexts: Contexts) -> NDArray[np.intp]:
        """Indices in the order of group, rank, second half of the hash, sentence.

        One sort of 64-bit keys of group and most of the rank, and then of what has equal keys: that takes a fifth of
        the time of sorting by all four.
        """
        group, rank = self._groups[contexts.token], self._rank(contexts)
        bits = np.uint64(int(group.max(initial=1)).bit_length())
        keys = (group.astype(np.uint64) << (np.uint64(64) - bits)) | (rank >> bits)
        order = np.argsort(keys)
        equal = np.diff(keys[order]) == 0
        places = np.flatnonzero(np.r_[equal, False] | np.r_[False, equal])
        tied = order[places]
        order[places] = tied[np.lexsort((contexts.sentence[tied], contexts.hash[tied, 1], rank[tied], group[tied]))]
        return order
