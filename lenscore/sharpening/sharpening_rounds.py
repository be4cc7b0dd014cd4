"""Rounds of new sentences: from the words that were found at patches, and as many of controls."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from torch import Tensor

from lenscore.index.row_words import RowWord, RowWords
from lenscore.index.topk import TopK
from lenscore.judging.candidates import random_words
from lenscore.judging.patches import PatchRef, partners
from lenscore.sharpening.growing_search import GrowingSearch, SearchStep, StoreExtension
from lenscore.sharpening.inverted_index import InvertedIndex
from lenscore.sharpening.new_sentences import Either, Request, SentenceSource, collect
from lenscore.sharpening.patch_words import MOST, PatchWords, found_word, words_of_patches
from lenscore.sharpening.search_names import CORPUS, FOUND, OTHER_PATCH, RANDOM_ROWS, RANDOM_SENTENCES, RANDOM_WORDS

_TURNS = 50
"""Turns of a control for one of the found words: it needs more if its sentences are often equal."""
_ENOUGH = 4
"""Sentences of the corpus for one of the found words that are drawn at a time, until they have as many rows."""


class Search(NamedTuple):
    """One search of the patches: where its new sentences come from ("" for the store alone), what they hold (`FOUND`
    words, or one of `CONTROLS`), and the number of its round, from 1 on.
    """

    source: str
    kind: str
    round: int

    @property
    def arm(self) -> list[Search]:
        """The searches whose sentences it has: the store alone, and this kind of this source up to this round."""
        return [STORE_ALONE, *(self._replace(round=number) for number in range(1, self.round + 1))]

    @property
    def found(self) -> Search:
        """The search of the same round and source for the found words, which decides how much a control adds."""
        return self._replace(kind=FOUND)

    @property
    def needs(self) -> set[Search]:
        """The searches that must be done before this one."""
        return {*self.arm, *self.found.arm} - {self}


STORE_ALONE = Search("", FOUND, 0)


def searches_of(sources: Sequence[str], controls: Sequence[str], rounds: int) -> list[Search]:
    """The store alone, then every round of every source with its controls, each behind those that it needs."""
    found = [STORE_ALONE]
    for source in sources:
        kinds = [FOUND, *(kind for kind in controls if (source, kind) != (CORPUS, OTHER_PATCH))]
        found += (Search(source, kind, number) for number in range(1, rounds + 1) for kind in kinds)
    return found


@dataclass(frozen=True)
class Searched:
    """The best rows behind a round.

    Attributes:
        source, kind, round: as of `Search`.
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

    @classmethod
    def of(cls, search: Search, steps: Sequence[SearchStep], patches: int) -> Searched:
        """A search, from the steps of its arm."""
        store, *added = steps
        top = steps[-1].top.reshape(-1, patches, store.top.ids.shape[1])
        sentences, rows = sum(len(step.new) for step in added), sum(len(step.hashes) for step in added)
        return cls(*search, steps[-1].new, sentences, rows, top, steps[-1].described, len(store.hashes))


@dataclass(frozen=True)
class SharpeningRounds:
    """The experiment: for each source the found words and the controls, each from the store alone on.

    Attributes:
        extension: of the store.
        words: of its rows.
        queries: the states of the patches at every layer, [layers * patches, dim].
        patches: the patches.
        sources: where sentences come from, by name.
        corpus: for `OF_CORPUS`.
        sentences: for each patch in each round, at most.
        seed: of the hashes.

    """

    extension: StoreExtension
    words: RowWords
    queries: Tensor
    patches: Sequence[PatchRef]
    sources: Mapping[str, SentenceSource]
    corpus: InvertedIndex | None
    sentences: int
    seed: int

    def search(self, search: Search, step_of: Callable[[Search], SearchStep]) -> SearchStep:
        """Add the sentences of a search; `step_of` gives what those that it needs have found."""
        before = [step_of(one) for one in search.arm[:-1]]
        arm = GrowingSearch(self.extension, self.queries, before)
        used = Either(self._in_store, {text for step in before for text in step.new})
        found = None if search.kind == FOUND else [step_of(one) for one in search.found.arm]
        wanted = None if found is None else len(found[-1].new)
        if search.kind != RANDOM_ROWS:
            return arm.step(arm.add(self._new_sentences(search, arm, used, wanted)))
        assert found is not None
        assert wanted is not None
        rows = sum(len(step.hashes) for step in found[1:])
        return arm.step(self._add_random_rows(arm, used, rows, _ENOUGH * wanted))

    def _add_random_rows(self, arm: GrowingSearch, used: Container[str], rows: int, at_a_time: int) -> Sequence[str]:
        """Search sentences of the corpus until there are so many rows, or no more sentences; returns them."""
        assert self.corpus is not None
        texts = (text for text in self.corpus.at_random() if text not in used)
        added: list[str] = []
        while arm.rows < rows and (new := list(islice(texts, at_a_time))):
            added += arm.add(new, rows - arm.rows)
        return added

    def _new_sentences(
        self, search: Search, arm: GrowingSearch, used: Container[str], wanted: int | None
    ) -> Sequence[str]:
        if search.kind == RANDOM_SENTENCES:
            assert self.corpus is not None
            return list(islice((text for text in self.corpus.at_random() if text not in used), wanted))
        of_search = f"{self.seed}/{search.source}/{search.kind}/{search.round}"
        names = [f"{of_search}/{_name(place)}" for place in self.patches]
        words = self._words(search.kind, names, arm)

        def requests(turn: int) -> list[Request]:
            pairs = zip(names, words, strict=True)
            return [Request(f"{name}/{turn}", some) for name, some in pairs if some.words and some.found]

        turns = self.sentences * (1 if wanted is None else _TURNS)
        return collect(self.sources[search.source], requests, turns, used, wanted)

    def _words(self, kind: str, names: Sequence[str], arm: GrowingSearch) -> list[PatchWords]:
        """The words of every patch for new sentences."""
        if kind == RANDOM_WORDS:
            chosen = [dict.fromkeys(random_words(self._vocabulary, MOST, name), 1.0) for name in names]
            return [PatchWords(some, some) for some in chosen]
        described = arm.describe()
        ids = arm.top.ids.reshape(-1, len(self.patches), arm.top.ids.shape[1])
        of_patches = ids.transpose(0, 1).flatten(1).tolist()
        words = words_of_patches([[described[row] for row in rows] for rows in of_patches])
        if kind == FOUND:
            return words
        at = {place.key: number for number, place in enumerate(self.patches)}
        others = [words[at[other.key]].words if other else {} for other in partners(self.patches, self.seed)]
        return [PatchWords(other, own.found) for own, other in zip(words, others, strict=True)]

    @cached_property
    def _in_store(self) -> frozenset[str]:
        return frozenset(self.words.sentences["text"].to_pylist())

    @cached_property
    def _vocabulary(self) -> list[str]:
        return sorted({found_word(row) for row in self.words.describe(range(len(self.words)))} - {""})


def _name(place: PatchRef) -> str:
    return f"{place.sha256}/{place.view}/{place.row}/{place.col}"
