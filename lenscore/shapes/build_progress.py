"""Plain progress lines of the training stages."""

from __future__ import annotations

import time


class Progress:
    """Prints the mean loss and the time ten times in a stage."""

    def __init__(self, stage: str, steps: int) -> None:
        self._stage = stage
        self._steps = steps
        self._every = max(1, steps // 10)
        self._start = time.monotonic()

    def show(self, losses: list[float]) -> None:
        """Call after each step with the losses so far."""
        done = len(losses)
        if done % self._every == 0:
            recent = losses[-self._every :]
            seconds = time.monotonic() - self._start
            loss = sum(recent) / len(recent)
            print(f"{self._stage}: step {done}/{self._steps}, loss {loss:.3f}, {seconds:.0f} s", flush=True)
