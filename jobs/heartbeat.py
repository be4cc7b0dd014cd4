"""A worker's heartbeat: a small file that says that it is alive, what it is doing, and how far it is."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder

BEATS_BEFORE_STALE = 6
"""Heartbeats that a worker may miss before it is taken for dead."""
SECONDS_BETWEEN_NEWS = 2.0
"""Progress is written at most this often, however often it is reported, so that it costs nothing."""
STALE_AFTER_SECONDS = 30.0
"""For workers that are not told otherwise, and for heartbeats that do not say it themselves."""


class Heartbeat:
    """Rewrites heartbeats/<name>.json from a thread, `BEATS_BEFORE_STALE` times in `stale_after` seconds.

    Progress is written sooner, within `SECONDS_BETWEEN_NEWS`.

    Attributes:
        state: JSON that the next beats carry: the shard in work or None, how many of its `items` are computed, what
            the worker is `doing` in words, and whatever was given at the start.

    """

    def __init__(self, run: RunFolder, name: str, stale_after: float, **state: Any) -> None:
        self.state: dict[str, Any] = {"shard": None, "items": 0, "doing": "", "stale_after": stale_after, **state}
        self._run = run
        self._name = name
        seconds = stale_after / BEATS_BEFORE_STALE
        self._looks_a_beat = math.ceil(seconds / SECONDS_BETWEEN_NEWS)
        self._seconds = seconds / self._looks_a_beat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="heartbeat", daemon=True)

    def now(self, shard: int | None, items: int = 0, doing: str = "") -> None:
        """Change what the next beat says; costs no time, since the thread writes it."""
        self.state = {**self.state, "shard": shard, "items": items, "doing": doing}

    def _go_on(self) -> None:
        written, looks = self.state, 0
        while not self._stop.wait(self._seconds):
            state, looks = self.state, looks + 1
            if state == written and looks < self._looks_a_beat:
                continue
            written, looks = state, 0
            # A disk that is full now may have room again at the next beat; the work itself says what is wrong.
            with contextlib.suppress(InputError, OSError):
                self._run.beat(self._name, **state)

    def __enter__(self) -> Heartbeat:
        """Raises InputError if the run folder cannot be written."""
        self._run.beat(self._name, **self.state)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._run.end_beat(self._name)


@dataclass(frozen=True)
class UnderWay:
    """What the living workers of a run are at.

    Attributes:
        items: computed of shards that are not done yet.
        workers: how many live.
        doing: words of the worker that told its progress last, as in "loss 2.31" or "loading".

    """

    items: int
    workers: int
    doing: str


def under_way(beats: Iterable[dict[str, Any]], done: Collection[int]) -> UnderWay:
    """Sum up heartbeats as `RunFolder.heartbeats` returns them; those of silent or dead workers do not count.

    Silence is measured against the newest heartbeat, so by the clock of the file system. A shard that two workers
    compute counts once. Call it with the shards that are done as they were read after the heartbeats.
    """
    beats = list(beats)
    newest = max((beat["modified"] for beat in beats), default=0.0)
    items: dict[int, int] = {}
    workers = 0
    last: tuple[bool, float, str] = (False, 0.0, "")
    for beat in beats:
        patience = float(beat.get("stale_after") or STALE_AFTER_SECONDS)
        if beat["dead"] or newest - beat["modified"] > patience:
            continue
        workers += beat.get("role") != "launcher"
        shard, computed = beat.get("shard"), beat.get("items", 0)
        if shard is not None and shard not in done:
            items[shard] = max(items.get(shard, 0), computed)
        if beat.get("doing"):
            last = max(last, (shard is not None, beat["modified"], beat["doing"]))
    return UnderWay(sum(items.values()), workers, last[2])
