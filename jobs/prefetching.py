"""Preparation of the next shard in a thread while the device computes the current one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from storage_layouts.runs import Shard

Prepared = TypeVar("Prepared")


class Prefetcher(Generic[Prepared]):
    """Calls `prepare(shard)` for the expected shard in advance.

    All calls are made in one thread, so `prepare` may use objects that are not thread-safe (a tokenizer). It must be a
    pure function of the shard: the result of a wrong guess is dropped, and so are its errors.
    """

    def __init__(self, prepare: Callable[[Shard], Prepared]) -> None:
        self._prepare = prepare
        self._thread = ThreadPoolExecutor(1)
        self._expected: tuple[Shard, Future[Prepared]] | None = None

    def expect(self, shard: Shard | None) -> None:
        """Begin to prepare a shard; None if no shard is expected."""
        self._expected = None if shard is None else (shard, self._thread.submit(self._prepare, shard))

    def take(self, shard: Shard) -> Prepared:
        """The result of `prepare(shard)`, whether the shard was expected or not. Raises the errors of `prepare`."""
        expected, self._expected = self._expected, None
        if expected is not None and expected[0] == shard:
            return expected[1].result()
        return self._thread.submit(self._prepare, shard).result()
