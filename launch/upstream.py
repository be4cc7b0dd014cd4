"""Wait for another run, for `--after`."""

from __future__ import annotations

import time
from collections.abc import Callable

from launch.run_status.reading import status_of
from storage_layouts.counts import share
from storage_layouts.runs import RunFolder

POLL_SECONDS = 5.0


def wait_until_complete(run: RunFolder, patience: float, progress: Callable[[str], None]) -> None:
    """Wait until a run is complete.

    Args:
        run: the run.
        patience: seconds without a living worker after which to give up.
        progress: takes messages.

    Raises:
        IncompleteError: no worker is alive; lists the missing shards.

    """
    last_alive = time.monotonic()
    while not (status := status_of(run.path)).complete:
        if not status.over:
            last_alive = time.monotonic()
        elif time.monotonic() - last_alive > patience:
            run.require_complete()
        done = share(status.done, status.shards, "shard") if status.planned else "being planned"
        progress(f"waiting for {run.path} ({done})")
        time.sleep(min(POLL_SECONDS, patience))
