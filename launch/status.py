"""`lens status RUN...`: how far runs are, read from their folders, and from a cluster's queue where there is one."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Group
from rich.filesize import decimal
from rich.text import Text

from launch.clusters.cluster import CallStatus
from launch.durations import duration, rate
from launch.exit_codes import exit_code
from launch.flags import parse
from launch.run_status.reading import status_of
from launch.run_status.snapshot import RunStatus
from launch.terminal import Terminal, print_err, print_out
from storage_layouts.counts import share, unit_of
from storage_layouts.errors import InputError

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_LINES = 30.0
QUIET_SECONDS = 30.0
"""A run that stopped less than this ago may go on: between two rounds of workers nobody is alive for a while."""

JSON_FORMAT = 1
COLOURS = {
    **{"complete": "green", "running": "cyan", "planning": "cyan", "waiting": "yellow", "stopped": "red"},
    "unknown": "yellow",
}


@dataclass
class Found:
    """One look.

    Attributes:
        runs: those that could be read.
        calls: commands that were queued as jobs of their own, as a pipeline's report is.
        unread: runs of a folder that cannot be read, and why.

    """

    runs: list[RunStatus] = field(default_factory=list)
    calls: list[CallStatus] = field(default_factory=list)
    unread: dict[Path, str] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to any of them."""
        return all(_is_over(status) for status in self.runs) and all(call.over for call in self.calls)


@dataclass(frozen=True)
class StatusCommand:
    """Show how far runs are, who works on them, and what failed. Exit code 0 if all are complete, else 1.

    In a folder of runs, one that is damaged is named, and the others are shown.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders or stores, or folders that hold some."""
    watch: bool = False
    """Go on until every run is complete, or nobody works on it any more; a scheduler that does not answer is waited
    for."""
    failed: bool = False
    """Show every failed shard with its traceback and its log, and every worker that ended badly."""
    json: bool = False
    """One JSON document instead of words; `RunStatus` in launch/run_status/snapshot.py says what its names mean."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 if all runs are complete, 1 if not, 2 if one is no run."""

    def run() -> int:
        command = parse(StatusCommand, argv, "lens status")
        if not command.runs:
            raise InputError("lens status: no run is named; expected run folders, stores, or folders that hold some")
        found = _watch(command) if command.watch else _look(command)
        document = to_json(found)
        if command.json:
            print_out(json.dumps(document, indent=1))
        else:
            Terminal(soft_wrap=True).print(_view(found, command.failed))
        for why in found.unread.values():
            print_err(why, style="red")
        return 0 if document["complete"] else 1

    return exit_code(run)


def to_json(found: Found) -> dict[str, object]:
    """The document of ``--json``.

    Its format, whether all is complete, the fields of `RunStatus` of every run, those of `CallStatus` of every command
    that was queued, and path and error of the runs that cannot be read.
    """
    states = [status.state for status in found.runs] + [call.state for call in found.calls]
    return {
        "format": JSON_FORMAT,
        "complete": not found.unread and all(state == "complete" for state in states),
        "runs": [status.to_json() for status in found.runs],
        "calls": [asdict(call) | {"folder": os.fspath(call.folder)} for call in found.calls],
        "unread": [{"path": os.fspath(path), "error": why} for path, why in found.unread.items()],
    }


def _look(command: StatusCommand) -> Found:
    """The runs, those of folders too. InputError if one that is named itself cannot be read."""
    found = Found()
    for path in command.runs:
        runs, folders = _below(path)
        for run in runs:
            try:
                found.runs.append(status_of(run))
            except InputError as error:
                if run == path:
                    raise
                found.unread[run] = str(error)
        if folders:
            from launch.clusters.choice import CLUSTERS

            found.calls += [call for folder in folders for cluster in CLUSTERS for call in cluster.calls_in(folder)]
    return found


def _below(path: Path) -> tuple[list[Path], list[Path]]:
    """A run itself, or the runs in a folder of them at any depth; the path as it is if it is neither.

    Second, the folders between them from which something was submitted.
    """
    runs, folders = [], []
    for folder, below, files in os.walk(path):
        if {"run.json", "planning.json"} & set(files):
            runs.append(Path(folder))
            below.clear()
        elif "submissions" in below:
            folders.append(Path(folder))
            below.remove("submissions")
    return sorted(runs) or [path], sorted(folders)


def _watch(command: StatusCommand) -> Found:
    """Show the runs until nothing more will happen to any of them, or until Ctrl-C; returns the last look."""
    found = _look(command)
    with contextlib.suppress(KeyboardInterrupt), _screen(quiet=command.json) as show:
        while not found.over:
            show(found)
            time.sleep(SECONDS_BETWEEN_LOOKS)
            found = _look(command)
    return found


def _is_over(status: RunStatus) -> bool:
    return status.over and (status.complete or status.given_up or status.quiet_seconds > QUIET_SECONDS)


@contextlib.contextmanager
def _screen(quiet: bool) -> Iterator[Callable[[Found], None]]:
    """Where to show what changes: in one place of a terminal, else as lines now and then."""
    console = Terminal(soft_wrap=True)
    if quiet:
        yield lambda found: None
    elif console.is_terminal:
        from rich.live import Live

        # Wrapped by rich, which must know how many lines to take back.
        with Live(console=Terminal(), auto_refresh=False, transient=True) as live:
            yield lambda found: live.update(_view(found, with_tracebacks=False), refresh=True)
    else:
        shown = float("-inf")

        def show(found: Found) -> None:
            nonlocal shown
            if time.monotonic() - shown >= SECONDS_BETWEEN_LINES:
                shown = time.monotonic()
                console.print(_view(found, with_tracebacks=False))

        yield show


def _view(found: Found, with_tracebacks: bool) -> Group:
    """A line a run, and below it what is wrong; then the commands that were queued."""
    lines = []
    for status in found.runs:
        lines.append(Text(_line(status), style=COLOURS[status.state]))
        lines += [Text(f"  {words}") for words in _troubles(status)]
        for failure in status.failed if with_tracebacks else ():
            tries = f"tried {failure.tries} times" + (", set aside" if failure.quarantined else "")
            lines.append(Text(f"shard {failure.shard}, {tries}, by {failure.worker}; log: {failure.log or 'none'}"))
            lines.append(Text(failure.traceback.rstrip()))
        for dead in status.dead if with_tracebacks else ():
            when = f", {duration(max(0.0, status.time - dead.time))} ago" if dead.time else ""
            lines.append(Text(f"{dead.worker} ended{when}: {dead.error}; log: {dead.log or 'none'}"))
    for call in found.calls:
        lines.append(Text(_call_line(call), style=COLOURS[call.state]))
        if call.error:
            lines.append(Text(f"  {call.error}; log: {call.log}"))
    return Group(*lines)


def _call_line(call: CallStatus) -> str:
    reason = f" ({call.reason})" if call.reason else ""
    return f"{call.name} of {call.folder}: {call.state}; {call.scheduler} job {call.job}{reason}"


def _line(status: RunStatus) -> str:
    """A run in one line. What is 0 or unknown is left out."""
    words = [f"{status.stage} {status.path}: {status.state}"]
    if status.planned:
        words.append(f"{share(status.done, status.shards, 'shard')} done")
        counts = {"running": len(status.running), "stale": len(status.stale), "failed": len(status.failed)}
        words += [f"{count:,} {name}" for name, count in (counts | {"pending": status.pending}).items() if count]
        if not status.complete:
            items = share(status.items_done + status.items_under_way, status.items, unit_of(status.stage))
            words += [items, status.doing] if status.doing else [items]
        if status.items_per_second is not None:
            words.append(rate(status.items_per_second, unit_of(status.stage)))
        if status.seconds_left is not None:
            words.append(f"{duration(status.seconds_left)} left")
        words.append(decimal(status.bytes))
        for kind, name in (("gpu", "GPU"), ("cpu", "CPU"), ("unknown", "worker")):
            if seconds := status.seconds_spent[kind]:
                words.append(f"{_number(seconds / 3600)} {name}-hours" if seconds >= 3600 else _short(seconds, name))
    return "; ".join([", ".join(words), *_queue_words(status)])


def _queue_words(status: RunStatus) -> list[str]:
    if not status.queue:
        return []
    counts = Counter(
        f"{job.state.lower()} ({job.reason})"
        if job.state == "PENDING" and job.reason not in ("", "None")
        else job.state.lower()
        for job in status.queue
    )
    return [f"{status.scheduler}: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))]


def _troubles(status: RunStatus) -> Iterator[str]:
    """What keeps a run from being complete, and what to do about it."""
    if status.complete:
        return
    if status.silence:
        yield f"{status.silence}; what the run folder says stands here"
    if not status.planned:
        who = next((f"{worker.worker} is" for worker in status.workers if worker.alive), "nobody is known to be")
        yield f"no plan yet; {who} at work on it"
    if status.last_error is not None:
        error = status.last_error
        what = f"worker {error.worker}" if error.shard is None else f"shard {error.shard}"
        log = f"; log: {error.log}" if error.log else ""
        when = duration(max(0.0, status.time - error.time)) + " ago" + (", mended since" if error.mended else "")
        yield f"last error ({what}, {when}): {error.error}{log}"
    aside = sum(failure.quarantined for failure in status.failed)
    if aside:
        yield f"{aside:,} set aside for failing too often (--failed shows why); mend it and repeat with --retry-failed"
    if status.state == "stopped" and not status.given_up:
        quiet = duration(status.quiet_seconds)
        mend = "mend what the last error says, then " if status.last_error and status.last_error.permanent else ""
        yield f"nobody works on it, and nothing changed for {quiet}; {mend}repeat the command to go on"


def _short(seconds: float, name: str) -> str:
    return f"{duration(seconds)} of {name} time"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
