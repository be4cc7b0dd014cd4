"""Sampling against a brute-force oracle, its independence of the order, and its uniformity."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from lenscore.contexts.sampling import Contexts, ContextSampler, prefix_contexts

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15

corpora = st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=25)


def mix(x: int) -> int:
    """SplitMix64's finaliser in Python integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def oracle_hash(prefix: tuple[int, ...], seed: int) -> tuple[int, int]:
    lanes = []
    for start in (2 * seed, 2 * seed + 1):
        h = mix((start + GOLDEN) & MASK)
        for token in prefix:
            h = mix(h ^ mix((token + GOLDEN) & MASK))
        lanes.append(h)
    return lanes[0], lanes[1]


def oracle(sentences: list[list[int]], per_token: int, seed: int, sampling: str) -> set[tuple[int, int, int]]:
    """(token, sentence, position) of every kept context, from a dictionary of prefixes."""
    first_seen: dict[tuple[int, ...], tuple[int, int]] = {}
    for number, ids in enumerate(sentences):
        for p in range(len(ids)):
            first_seen.setdefault(tuple(ids[: p + 1]), (number, p))
    by_token = defaultdict(list)
    for prefix, place in first_seen.items():
        rank = oracle_hash(prefix, seed) if sampling == "uniform" else place
        by_token[prefix[-1]].append((rank, place))
    return {(token, *place) for token, found in by_token.items() for _, place in sorted(found)[:per_token]}


def chosen(kept: Contexts) -> set[tuple[int, int, int]]:
    return set(zip(kept.token.tolist(), kept.sentence.tolist(), kept.position.tolist(), strict=True))


@settings(max_examples=300, deadline=None)
@given(
    corpora,
    st.integers(1, 4),
    st.integers(0, 2**40),
    st.sampled_from(["uniform", "first"]),
    st.integers(1, 7),
    st.integers(0, 30),
    st.randoms(use_true_random=False),
)
def test_choice_equals_brute_force(sentences, per_token, seed, sampling, batch, buffer, random):
    sampler = ContextSampler(per_token, vocabulary=6, sampling=sampling, buffer=buffer)
    batches = list(range(0, len(sentences), batch))
    for first in random.sample(batches, len(batches)):
        some = sentences[first : first + batch]
        sampler.add(prefix_contexts(some, range(first, first + len(some)), seed))
    kept = sampler.kept()
    assert chosen(kept) == oracle(sentences, per_token, seed, sampling)
    assert len(kept) == len(chosen(kept))
    places = list(zip(kept.sentence.tolist(), kept.position.tolist(), strict=True))
    assert places == sorted(places)


@settings(max_examples=100, deadline=None)
@given(corpora, st.integers(1, 3), st.randoms(use_true_random=False))
def test_uniform_choice_of_prefixes_does_not_depend_on_corpus_order(sentences, per_token, random):
    def prefixes(corpus: list[list[int]]) -> set[tuple[int, ...]]:
        sampler = ContextSampler(per_token, vocabulary=6)
        sampler.add(prefix_contexts(corpus, range(len(corpus)), seed=3))
        kept = sampler.kept()
        return {tuple(corpus[s][: p + 1]) for s, p in zip(kept.sentence, kept.position, strict=True)}

    shuffled = random.sample(sentences, len(sentences))
    assert prefixes(sentences) == prefixes(shuffled)


def test_not_causal_contexts_differ_by_what_follows():
    causal = prefix_contexts([[1, 2], [1, 3]], [0, 1], seed=0)
    assert (causal.hash[0] == causal.hash[2]).all()
    whole = prefix_contexts([[1, 2], [], [1, 3], [1, 2]], range(4), seed=0, causal=False)
    assert (whole.hash[0] != whole.hash[2]).any()
    assert (whole.hash[0] == whole.hash[4]).all()
    assert len({tuple(h) for h in whole.hash.tolist()}) == 4


def test_choice_is_uniform_over_distinct_contexts():
    """Each of 40 contexts of a token is kept equally often over seeds, however often it occurs in the corpus."""
    sentences = [[first, 50] for first in range(40) for _ in range(1 + 5 * (first % 2))]
    counts = np.zeros(40)
    for seed in range(600):
        sampler = ContextSampler(per_token=4, vocabulary=51)
        contexts = prefix_contexts(sentences, range(len(sentences)), seed)
        sampler.add(contexts.pick(contexts.token == 50))
        for sentence in sampler.kept().sentence:
            counts[sentences[sentence][0]] += 1
    assert counts.sum() == 600 * 4
    assert chisquare(counts).pvalue > 1e-4
