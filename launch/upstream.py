"""Wait for another run, as `--after` asks."""

from __future__ import annotations

import time
from collections.abc import Callable

from launch.run_status.reading import status_of
from storage_layouts.counts import share
from storage_layouts.runs import RunFolder

POLL_SECONDS = 5.0


def wait_until_complete(run: RunFolder, patience: float, say: Callable[[str], None]) -> None:
    """Return when a run is complete.

    Args:
        run: the run.
        patience: seconds without any sign of life of it after which to give up.
        say: takes words for the user.

    Raises:
        IncompleteError: nobody works on it any more; lists the missing shards.

    """
    last_sign = time.monotonic()
    while not (status := status_of(run.path)).complete:
        if not status.over:
            last_sign = time.monotonic()
        elif time.monotonic() - last_sign > patience:
            run.require_complete()
        done = share(status.done, status.shards, "shard") if status.planned else "being planned"
        say(f"waiting for {run.path} ({done})")
        time.sleep(min(POLL_SECONDS, patience))
