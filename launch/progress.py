"""Progress of a command: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections import deque

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from jobs.heartbeat import under_way
from launch.durations import duration, rate
from launch.terminal import print_plain
from storage_layouts.budget import Budget, dollars
from storage_layouts.counts import share, unit_of
from storage_layouts.runs import RunFolder

SECONDS_BETWEEN_LINES = 10.0
SECONDS_WITHOUT_NEWS = 60.0
"""In a log, an unchanged line is repeated only after this time, with the time since the last change."""
SECONDS_BETWEEN_LOOKS = 0.5
LOOK_SHARE = 0.1
"""Reading a large run folder takes at most this share of the time."""
RATE_SECONDS = 120.0
"""The rate is measured over this time."""


class StageProgress:
    """Shows the progress of a command: messages while it plans, then the number of computed items."""

    def __init__(self, console: Console, stage: str) -> None:
        self._console = console
        self._stage = stage
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(stage, total=None)
        self._news = self._printed = ""
        self._since = self._last_line = self._next_look = float("-inf")
        self._rate = _Rate()
        self._budget: Budget | None = None

    def __enter__(self) -> StageProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """Show a message before the number of items is known."""
        self._bar.update(self._task, description=f"{self._stage}: {message}", total=None)
        self._line(message)

    def note(self, message: str) -> None:
        """Print a permanent message."""
        print_plain(self._console, f"{self._stage}: {message}")

    def of(self, run: RunFolder) -> None:
        """Show the number of computed items; reads the run folder at most twice a second."""
        began = time.monotonic()
        if began < self._next_look:
            return
        # The shards last: one that is finished while the heartbeats are read counts once.
        plan = run.plan
        beats, done = (run.heartbeats(), run.done()) if plan is not None else ([], set())
        now = time.monotonic()
        self._next_look = now + max(SECONDS_BETWEEN_LOOKS, (now - began) / LOOK_SHARE)
        if plan is None:
            self.say("waiting for the plan")
            return
        self._budget = self._budget or Budget(run.path / "budget")
        workers, unit, total = under_way(beats, done), unit_of(run.stage), plan.items
        items = plan.items_of(done) + workers.items
        doing = workers.doing or ("" if workers.workers or items == total else "waiting for workers")
        news = share(items, total, unit) + (f", {doing}" if doing else "")
        news += money(run, self._budget)
        self._rate.add(items, now, bool(workers.shards))
        pace = self._rate.text(total - items, unit, now)
        self._bar.update(self._task, description=f"{self._stage}: {news}{pace}", completed=items, total=total)
        self._line(news, pace)

    def _line(self, news: str, pace: str = "") -> None:
        """Print a line of a log: at most one every ten seconds, and an unchanged one only after a minute."""
        now = time.monotonic()
        if news != self._news:
            self._news, self._since = news, now
        printed = now - self._last_line
        is_new = news != self._printed
        if self._console.is_terminal or printed < (SECONDS_BETWEEN_LINES if is_new else SECONDS_WITHOUT_NEWS):
            return
        self._printed, self._last_line = news, now
        text = f"{self._stage}: {news}" + (pace if is_new else f", unchanged for {duration(now - self._since)}")
        print_plain(self._console, text)


class _Rate:
    """The rate at which a number grows, over the last minutes; what comes before the first shard does not count."""

    def __init__(self) -> None:
        self._latest: int | None = None
        # A number, and the time when it was first seen, or when the work on the next item began.
        self._changes: deque[tuple[int, float]] = deque()

    def add(self, number: int, now: float, computing: bool) -> None:
        """Record the current number, and whether any worker computes."""
        if self._latest is not None and number < self._latest:
            self._changes.clear()  # the items of a worker were lost
        elif self._latest is not None and number > self._latest:
            self._changes.append((number, now))
        # Workers begin together, so their first shards end together, and the time between these says nothing.
        if computing and not self._changes:
            self._changes.append((number, now))
        self._latest = number
        while len(self._changes) > 2 and now - self._changes[0][1] > RATE_SECONDS:
            self._changes.popleft()

    def text(self, left: int, noun: str, now: float) -> str:
        """Returns the rate and the time left, behind a comma; "" while they are unknown."""
        if len(self._changes) < 2 or left <= 0:
            return ""
        (first, began), (last, _) = self._changes[0], self._changes[-1]
        per_second = (last - first) / (now - began)
        return f", {rate(per_second, noun)}, {duration(left / per_second)} left"


def money(run: RunFolder, budget: Budget | None = None) -> str:
    """Returns the dollars that a judge has spent, reserved for current requests, and left; "" if nothing costs money.

    ``budget``: that of the run, if it has been read already.
    """
    budget = budget or Budget(run.path / "budget")
    budget.refresh()
    if budget.limit == 0 or not budget.is_set:
        return ""
    left = "" if budget.left is None else f", {dollars(budget.left)} left"
    return f"; {dollars(budget.spent)} spent, {dollars(budget.held - budget.spent)} reserved{left}"
