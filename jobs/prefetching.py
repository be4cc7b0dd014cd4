"""Preparing the next shard on a thread while the device works on the present one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from storage_layouts.runs import Shard

Prepared = TypeVar("Prepared")


class Prefetcher(Generic[Prepared]):
    """Calls `prepare(shard)` for a shard that is expected, and hands out the result when it is asked for.

    All calls happen one after the other on one thread, so `prepare` may use what must not be shared (a tokenizer). It
    has to be a pure function of the shard: a guess that turns out wrong is dropped, its errors too.
    """

    def __init__(self, prepare: Callable[[Shard], Prepared]) -> None:
        self._prepare = prepare
        self._thread = ThreadPoolExecutor(1)
        self._expected: tuple[Shard, Future[Prepared]] | None = None

    def expect(self, shard: Shard | None) -> None:
        """Begin to prepare a shard; None: nothing is expected."""
        self._expected = None if shard is None else (shard, self._thread.submit(self._prepare, shard))

    def take(self, shard: Shard) -> Prepared:
        """The prepared shard, whether it was expected or not. Raises what `prepare` raises."""
        expected, self._expected = self._expected, None
        if expected is not None and expected[0] == shard:
            return expected[1].result()
        return self._thread.submit(self._prepare, shard).result()
