from __future__ import annotations

from math import comb

from lenscore.judging.candidates import random_words
from lenscore.readings.words import token_word


def test_random_words_are_distinct_and_hit_as_often_as_they_should() -> None:
    vocabulary = [f"word {i}" for i in range(60)]
    right, draws, k = set(vocabulary[:4]), 20_000, 5
    hits = 0
    for draw in range(draws):
        words = random_words(vocabulary, k, f"patch {draw}")
        assert len(set(words)) == k
        hits += bool(right.intersection(words))
    chance = 1 - comb(56, k) / comb(60, k)
    assert abs(hits / draws - chance) < 4 * (chance * (1 - chance) / draws) ** 0.5
    assert random_words(vocabulary, k, "patch 7") == random_words(vocabulary, k, "patch 7")
    assert sorted(random_words(vocabulary[:3], k, "few")) == vocabulary[:3]


def test_tokens_lose_the_mark_of_the_leading_space() -> None:
    assert [token_word(token) for token in (" cat", "▁cat", "Ġcat", "cat", " \n", "")] == ["cat"] * 4 + ["", ""]
