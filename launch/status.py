"""`lens status RUN`: how far a run is, read from its folder alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from jobs.base import HEARTBEAT_SECONDS
from launch.flags import parse
from launch.stages import exit_code
from storage_layouts.runs import RunFolder

STALE_AFTER_SECONDS = 6 * HEARTBEAT_SECONDS


@dataclass(frozen=True)
class StatusCommand:
    """Show how many shards of a run are done, running, stale, failed and pending."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder or store."""
    watch: bool = False
    """Go on showing until the run is complete."""
    failed: bool = False
    """Show the last error of every failed shard."""


@dataclass(frozen=True)
class RunStatus:
    """A snapshot: shard numbers by state; items a second over the finished attempts; the last errors by shard."""

    total: int
    done: set[int]
    running: set[int]
    stale: set[int]
    failed: dict[int, str]
    seconds_a_shard: float | None

    @property
    def pending(self) -> int:
        """Shards that nobody has taken yet."""
        return self.total - len(self.done | self.running | self.stale | set(self.failed))


def status_of(run: RunFolder, now: float | None = None) -> RunStatus:
    """Read receipts, heartbeats and attempts. A shard is stale if its worker has been silent for half a minute."""
    now = time.time() if now is None else now
    plan = run.plan
    done = run.done()
    running: set[int] = set()
    stale: set[int] = set()
    for beat in run.heartbeats():
        shard = beat.get("shard")
        if shard is not None and shard not in done:
            (running if now - beat["modified"] < STALE_AFTER_SECONDS else stale).add(shard)
    failed: dict[int, str] = {}
    seconds = []
    for line in run.attempts_log():
        if line["event"] == "failed":
            failed[line["shard"]] = line["traceback"]
        elif line["event"] == "finished":
            seconds.append(line["seconds"])
    return RunStatus(
        total=plan.shard_count if plan else 0,
        done=done,
        running=running,
        stale=stale - running,
        failed={shard: error for shard, error in failed.items() if shard not in done | running},
        seconds_a_shard=sum(seconds) / len(seconds) if seconds else None,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 if the run is complete, else 1."""

    def show() -> int:
        command = parse(StatusCommand, argv, "lens status")
        run = RunFolder.open(command.run)
        console = Console()
        while True:
            status = status_of(run)
            _print(console, run, status, command.failed)
            complete = run.is_complete()
            if complete or not command.watch:
                return 0 if complete else 1
            time.sleep(2)

    return exit_code(show)


def _print(console: Console, run: RunFolder, status: RunStatus, with_errors: bool) -> None:
    table = Table(title=f"{run.stage} {run.path}", title_justify="left")
    for name in ("shards", "done", "running", "stale", "failed", "pending", "s a shard", "left"):
        table.add_column(name, justify="right")
    rate = status.seconds_a_shard
    workers = max(1, len(status.running))
    left = "" if rate is None else f"{rate * (status.total - len(status.done)) / workers:.0f} s"
    counts = [status.total, len(status.done), len(status.running), len(status.stale), len(status.failed)]
    table.add_row(*map(str, counts), str(status.pending), "" if rate is None else f"{rate:.2f}", left)
    console.print(table)
    if run.plan is None:
        console.print("not planned yet: repeat the command that makes this run")
    for shard, error in sorted(status.failed.items()):
        text = error.strip() if with_errors else error.strip().splitlines()[-1]
        console.print(f"shard {shard:05d}: {text}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
