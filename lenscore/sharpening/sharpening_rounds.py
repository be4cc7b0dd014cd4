"""Rounds of new sentences: from the words that were found at patches, and as many of controls."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from lenscore.index.row_words import RowWord
from lenscore.index.topk import TopK
from lenscore.judging.candidates import random_words
from lenscore.judging.patches import PatchRef, partners
from lenscore.sharpening.growing_search import GrowingSearch, StoreSearch
from lenscore.sharpening.inverted_index import InvertedIndex
from lenscore.sharpening.new_sentences import CORPUS, Either, Request, SentenceSource, collect
from lenscore.sharpening.patch_words import MOST, PatchWords, found_word, words_of_patches

FOUND = "found"
OTHER_PATCH = "other-patch"
RANDOM_WORDS = "random-words"
RANDOM_SENTENCES = "random-sentences"
RANDOM_ROWS = "random-rows"
CONTROLS = (OTHER_PATCH, RANDOM_WORDS, RANDOM_SENTENCES, RANDOM_ROWS)
"""Sentences of found words with words of another image's patch; with random words of the store; random sentences of a
corpus, as many as of the found words; random ones with as many rows."""
OF_CORPUS = frozenset({RANDOM_SENTENCES, RANDOM_ROWS})
_TURNS = 50
"""Turns of a control for one of the found words: it needs more if its sentences are often equal."""
_ENOUGH = 4
"""Sentences of the corpus for one of the found words that are drawn at a time, until they have as many rows."""


@dataclass(frozen=True)
class Searched:
    """The best rows behind a round.

    Attributes:
        source: where the new sentences come from; "" for the store alone.
        kind: what they hold: `FOUND` words, or one of `CONTROLS`.
        round: from 1 on; 0 is the store alone.
        new: the sentences of this round.
        sentences, rows: how many were added in all rounds.
        top: the best rows [layers, patches, k].
        described: the words of these rows.
        first_added: rows from this one on are of added sentences.

    """

    source: str
    kind: str
    round: int
    new: Sequence[str]
    sentences: int
    rows: int
    top: TopK
    described: Mapping[int, RowWord]
    first_added: int


@dataclass
class _Arm:
    """One kind of words of one source, through the rounds."""

    search: GrowingSearch
    used: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class SharpeningRounds:
    """The experiment: for each source the found words and the controls, each from the store alone on.

    Attributes:
        base: the states of the patches at every layer, [layers * patches], searched in the store.
        patches: the patches.
        sources: where sentences come from, by name.
        controls: some of `CONTROLS`. `OTHER_PATCH` is left out for `CORPUS`, which has no sentences for chosen pairs.
        corpus: for `OF_CORPUS`.
        rounds: how many.
        sentences: for each patch in each round, at most.
        seed: of the hashes.

    """

    base: StoreSearch
    patches: Sequence[PatchRef]
    sources: Mapping[str, SentenceSource]
    controls: Sequence[str]
    corpus: InvertedIndex | None
    rounds: int
    sentences: int
    seed: int

    def run(self, progress: Callable[[str], None]) -> Iterator[Searched]:
        """The store alone, then every round of every source with its controls."""
        yield self._searched("", FOUND, 0, (), _Arm(GrowingSearch(self.base)))
        in_store = frozenset(self.base.words.sentences["text"].to_pylist())
        vocabulary = self._vocabulary() if RANDOM_WORDS in self.controls else []
        for name in self.sources:
            left_out = {OTHER_PATCH} if name == CORPUS else set()
            arms = {kind: _Arm(GrowingSearch(self.base)) for kind in (FOUND, *self.controls) if kind not in left_out}
            for number in range(1, self.rounds + 1):
                wanted = None
                for kind, arm in arms.items():
                    progress(f"{name}, round {number} of {self.rounds}: {kind}")
                    used = Either(in_store, arm.used)
                    if kind == RANDOM_ROWS:
                        assert wanted is not None  # the found words are first
                        added = self._add_random_rows(arm, used, arms[FOUND].search.rows, _ENOUGH * wanted)
                    else:
                        new = self._new_sentences(name, kind, number, arm, used, wanted, vocabulary)
                        wanted = len(new) if wanted is None else wanted
                        added = arm.search.add(new)
                    arm.used.update(added)
                    yield self._searched(name, kind, number, added, arm)

    def _add_random_rows(self, arm: _Arm, used: Container[str], rows: int, at_a_time: int) -> Sequence[str]:
        """Search sentences of the corpus until there are so many rows, or no more sentences; returns them."""
        assert self.corpus is not None
        texts = (text for text in self.corpus.at_random() if text not in used)
        added: list[str] = []
        while arm.search.rows < rows and (new := list(islice(texts, at_a_time))):
            added += arm.search.add(new, rows - arm.search.rows)
        return added

    def _new_sentences(
        self,
        source: str,
        kind: str,
        number: int,
        arm: _Arm,
        used: Container[str],
        wanted: int | None,
        vocabulary: Sequence[str],
    ) -> list[str]:
        if kind == RANDOM_SENTENCES:
            assert self.corpus is not None
            return list(islice((text for text in self.corpus.at_random() if text not in used), wanted))
        names = [f"{self.seed}/{source}/{kind}/{number}/{_name(place)}" for place in self.patches]
        words = self._words(kind, names, arm, vocabulary)

        def requests(turn: int) -> list[Request]:
            pairs = zip(names, words, strict=True)
            return [Request(f"{name}/{turn}", some) for name, some in pairs if some.words and some.found]

        turns = self.sentences * (1 if wanted is None else _TURNS)
        return collect(self.sources[source], requests, turns, used, wanted)

    def _words(self, kind: str, names: Sequence[str], arm: _Arm, vocabulary: Sequence[str]) -> list[PatchWords]:
        """The words of every patch for new sentences."""
        if kind == RANDOM_WORDS:
            chosen = [dict.fromkeys(random_words(vocabulary, MOST, name), 1.0) for name in names]
            return [PatchWords(some, some) for some in chosen]
        described = arm.search.describe()
        ids = arm.search.top.ids.reshape(-1, len(self.patches), arm.search.top.ids.shape[1])
        of_patches = ids.transpose(0, 1).flatten(1).tolist()
        words = words_of_patches([[described[row] for row in rows] for rows in of_patches])
        if kind == FOUND:
            return words
        at = {place.key: number for number, place in enumerate(self.patches)}
        others = [words[at[other.key]].words if other else {} for other in partners(self.patches, self.seed)]
        return [PatchWords(other, own.found) for own, other in zip(words, others, strict=True)]

    def _vocabulary(self) -> list[str]:
        rows = self.base.words
        return sorted({found_word(row) for row in rows.describe(range(len(rows)))} - {""})

    def _searched(self, source: str, kind: str, number: int, new: Sequence[str], arm: _Arm) -> Searched:
        search = arm.search
        top = search.top.reshape(-1, len(self.patches), search.top.ids.shape[1])
        first = len(self.base.words)
        return Searched(source, kind, number, new, len(arm.used), search.rows, top, search.describe(), first)


def _name(place: PatchRef) -> str:
    return f"{place.sha256}/{place.view}/{place.row}/{place.col}"
