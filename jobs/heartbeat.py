"""A worker's heartbeat: a small file that shows that it is alive, with its status and progress."""

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
"""Number of heartbeats that a worker may miss before it counts as dead."""
SECONDS_BETWEEN_NEWS = 2.0
"""Shortest time between two writes of the progress."""
STALE_AFTER_SECONDS = 30.0
"""Default of `stale_after`, also for heartbeats without this field."""


class Heartbeat:
    """A thread that rewrites heartbeats/<name>.json, `BEATS_BEFORE_STALE` times in `stale_after` seconds.

    New progress is written sooner, within `SECONDS_BETWEEN_NEWS`.

    Attributes:
        state: JSON of the next heartbeats: the current shard or None, the number of its computed `items`, the status
            `doing` in words, and the arguments of the constructor.

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
        """Change the state; the thread writes it with the next heartbeat."""
        self.state = {**self.state, "shard": shard, "items": items, "doing": doing}

    def _go_on(self) -> None:
        written, looks = self.state, 0
        while not self._stop.wait(self._seconds):
            state, looks = self.state, looks + 1
            if state == written and looks < self._looks_a_beat:
                continue
            written, looks = state, 0
            # A full disk may have space again at the next heartbeat; the work itself reports the error.
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
    """Summary of the heartbeats of a run.

    Attributes:
        items: number of computed items of shards that are not done yet.
        workers: number of living workers.
        shards: number of shards that they compute.
        doing: status of the worker with the newest progress, for example "loss 2.31" or "loading".

    """

    items: int
    workers: int
    shards: int
    doing: str


def under_way(beats: Iterable[dict[str, Any]], done: Collection[int]) -> UnderWay:
    """Summarise the result of `RunFolder.heartbeats`, without those of stale or dead workers.

    The age of a heartbeat is measured against the newest one, so by the clock of the file system. A shard that two
    workers compute counts once. ``done`` must have been read after the heartbeats.
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
    return UnderWay(sum(items.values()), workers, len(items), last[2])
