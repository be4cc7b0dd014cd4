"""The shards of a planning that several workers share, and which of them need others.

pieces 0 1 2 ... 40   sample the contexts of a piece of the corpus
merges 41 42 43, 44   keep the best contexts of up to 16 pieces or merges; the last one keeps those of the corpus
texts 45 ... 85       collect the sentences of the kept contexts, one for each piece
tables 86             write the plan of the store, with its row table and its sentences
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal

Kind = Literal["piece", "merge", "texts", "tables"]

FAN_IN = 16
"""Tables that one merge reads, one after the other."""


@dataclass(frozen=True)
class PlanningTree:
    """The shards of the planning of a corpus of some pieces."""

    pieces: int

    @cached_property
    def levels(self) -> tuple[range, ...]:
        """The shards of each level: pieces, merges of pieces, merges of merges, ..., texts, tables."""
        sizes = [self.pieces]
        while sizes[-1] > 1:
            sizes.append(-(-sizes[-1] // FAN_IN))
        ends = list(accumulate([*sizes, self.pieces, 1]))
        return tuple(range(first, stop) for first, stop in zip([0, *ends], ends, strict=False))

    @property
    def shards(self) -> int:
        """How many there are."""
        return self.levels[-1].stop

    @property
    def root(self) -> int:
        """The merge of all."""
        return self.texts.start - 1

    @property
    def merges(self) -> tuple[range, ...]:
        """The levels of merges."""
        return self.levels[1:-2]

    @property
    def texts(self) -> range:
        """The shards that collect sentences."""
        return self.levels[-2]

    def place(self, shard: int) -> tuple[Kind, int]:
        """What a shard does, and its place in its level."""
        level = next(level for level, shards in enumerate(self.levels) if shard in shards)
        kinds: dict[int, Kind] = {0: "piece", len(self.levels) - 2: "texts", len(self.levels) - 1: "tables"}
        return kinds.get(level, "merge"), self.levels[level].index(shard)

    def inputs(self, shard: int) -> range:
        """The shards whose results it reads."""
        kind, place = self.place(shard)
        if kind == "piece":
            return range(0)
        if kind == "texts":
            return range(self.root, self.root + 1)
        if kind == "tables":
            return self.texts
        below = next(below for below, level in zip(self.levels, self.levels[1:], strict=False) if shard in level)
        return below[place * FAN_IN : (place + 1) * FAN_IN]

    def ready(self, shard: int, done: Collection[int]) -> bool:
        """Whether all that a shard reads is done."""
        return all(one in done for one in self.inputs(shard))
