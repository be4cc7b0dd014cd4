"""The order in which a worker takes shards: its own slice, then unclaimed shards, then those of dead workers; or, in a
chain, one after the other.

There is no server. Workers coordinate through the run folder: receipts record which shards are done, claims which
worker computes a shard, and heartbeats which workers are alive. A shard that is computed twice costs only time, so no
decision here has to be certain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain

from jobs.heartbeat import BEATS_BEFORE_STALE
from storage_layouts.claims import Claim
from storage_layouts.failures import MAX_TRIES
from storage_layouts.runs import RunFolder, Shard

LONGEST_PAUSE = 5.0
"""Seconds between looks for shards that become ready, so that a thousand workers do not keep a file system busy."""


def shards_to_compute(
    run: RunFolder,
    worker: str,
    part: int,
    parts: int,
    stale_after: float,
    stop: Callable[[], bool],
    in_order: bool = False,
    ready: Callable[[Shard, set[int]], bool] = lambda shard, done: True,
) -> Iterator[tuple[Shard, Claim]]:
    """Claim and yield shards until none is left for this worker.

    The caller computes the shard and then drops the claim. Shards that failed before come last, so that another worker
    may try them first. Ends when the other shards are done, quarantined, or claimed by workers that are alive.

    Args:
        run: the run, planned.
        worker: name of the worker; it must have written a heartbeat.
        part: the worker's slice is every `parts`-th shard, from this one on.
        parts: number of slices.
        stale_after: seconds without a heartbeat after which a worker counts as dead.
        stop: called before every claim; True ends the iteration.
        in_order: each shard begins from the state that the one before left, so only the first missing one is taken.
        ready: whether a shard can be computed when some others are done. Shards that are not ready are waited for.

    """
    shards = run.require_plan().shards()
    order = shards if in_order else in_order_of_taking(shards, part, parts)
    liveness = _Liveness(run, worker, stale_after)
    pause = 0.5
    while True:
        done, claims = run.done(), run.claims()
        failures = run.failures()
        missing = [shard for shard in order if shard.index not in done]
        possible = missing[:1] if in_order else [shard for shard in missing if ready(shard, done)]
        more_follow = not in_order and len(possible) < len(missing)
        todo = [shard for shard in possible if failures.get(shard.index, {}).get("tries", 0) < MAX_TRIES]
        if not todo:
            return
        free = [shard for shard in todo if shard.index not in claims]
        free.sort(key=lambda shard: shard.index in failures)  # stable: failed ones last
        if free:
            for shard in free:
                if stop():
                    return
                if claim := _take(run, shard, worker):
                    yield shard, claim
            pause = 0.5
            continue
        dead, unknown = liveness.classify({claim.worker() for shard in todo if (claim := claims.get(shard.index))})
        orphans = [shard for shard in todo if claims[shard.index].worker() in dead]
        for shard in orphans:
            if stop():
                return
            if claim := _take(run, shard, worker, after=claims[shard.index]):
                yield shard, claim
        if not orphans:
            if not (unknown or more_follow) or stop():
                return
            pause = min(1.0 if unknown else 1.3 * pause, LONGEST_PAUSE, stale_after / BEATS_BEFORE_STALE)
            time.sleep(pause)


def _take(run: RunFolder, shard: Shard, worker: str, after: Claim | None = None) -> Claim | None:
    """Claim a shard, unless it has failed too often since the list of shards was made."""
    claim = run.take(shard.index, worker, after)
    if claim is not None and run.tries(shard.index) >= MAX_TRIES:
        run.drop(claim)
        return None
    return claim


def in_order_of_taking(shards: list[Shard], part: int, parts: int) -> list[Shard]:
    """The own slice in order, then the other slices in reverse, because their workers take the last shards last."""
    others = [shards[(part + step) % parts :: parts][::-1] for step in range(1, parts)]
    return list(chain(shards[part::parts], *others))


class _Liveness:
    """Which of the workers that hold a claim are dead, and for which this is not known yet."""

    def __init__(self, run: RunFolder, worker: str, stale_after: float) -> None:
        self._run = run
        self._worker = worker
        self._stale_after = stale_after
        self._first_seen: dict[str, float] = {}

    def classify(self, claimants: set[str]) -> tuple[set[str], set[str]]:
        """The dead and the unknown among `claimants`; the others have sent a heartbeat since the first call.

        The age of a heartbeat is measured by the clock of the file system, against this worker's last heartbeat.
        """
        beats = {beat["worker"]: beat for beat in self._run.heartbeats(claimants | {self._worker})}
        now = beats[self._worker]["modified"] if self._worker in beats else time.time()
        # A worker removes its heartbeat when it ends, so the claims of a worker without one are abandoned.
        dead = {name for name in claimants if name not in beats or name == self._worker}
        unknown = set()
        for name in claimants - dead:
            modified = beats[name]["modified"]
            if beats[name]["dead"] or now - modified > self._stale_after:
                dead.add(name)
            elif modified <= self._first_seen.setdefault(name, modified):
                unknown.add(name)
        return dead, unknown
