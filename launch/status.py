"""`lens status RUN...`: the progress of runs, by their folders and by the queue of their cluster."""

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
from storage_layouts.runs import PLANNING

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_LINES = 30.0
QUIET_SECONDS = 30.0
"""A run without a living worker counts as stopped after this time, since there is a pause between two rounds."""

JSON_FORMAT = 1
COLOURS = {
    **{"complete": "green", "running": "cyan", "planning": "cyan", "waiting": "yellow", "stopped": "red"},
    "unknown": "yellow",
}


@dataclass
class Found:
    """The runs and calls below the given folders at one time.

    Attributes:
        runs: those that could be read.
        calls: commands that were queued as separate jobs, such as a pipeline's report.
        unread: the errors of runs that could not be read.

    """

    runs: list[RunStatus] = field(default_factory=list)
    calls: list[CallStatus] = field(default_factory=list)
    unread: dict[Path, str] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether the state of all of them is final."""
        return all(_is_over(status) for status in self.runs) and all(call.over for call in self.calls)


@dataclass(frozen=True)
class StatusCommand:
    """Show the progress of runs, their workers, and errors. Exit code 0 if all are complete, else 1.

    In a folder of runs, damaged ones are named, and the others are shown.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders or stores, or folders that hold some."""
    watch: bool = False
    """Repeat until every run is complete or has no living worker; waits for a scheduler that does not answer."""
    failed: bool = False
    """Show every failed shard with its traceback and its log, and every failed worker."""
    json: bool = False
    """Print one JSON document; `RunStatus` in launch/run_status/snapshot.py describes its fields."""


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
        for error in found.unread.values():
            print_err(error, style="red")
        return 0 if document["complete"] else 1

    return exit_code(run)


def to_json(found: Found) -> dict[str, object]:
    """Returns the document of ``--json``.

    It has its format, whether everything is complete, the fields of `RunStatus` of every run, those of `CallStatus` of
    every queued command, and path and error of the runs that could not be read.
    """
    states = [status.state for status in found.runs] + [call.state for call in found.calls]
    return {
        "format": JSON_FORMAT,
        "complete": not found.unread and all(state == "complete" for state in states),
        "runs": [status.to_json() for status in found.runs],
        "calls": [asdict(call) | {"folder": os.fspath(call.folder)} for call in found.calls],
        "unread": [{"path": os.fspath(path), "error": error} for path, error in found.unread.items()],
    }


def _look(command: StatusCommand) -> Found:
    """Read the runs, also those in folders. Raises InputError if a run that the command names cannot be read."""
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
    """Returns the runs at or below a path, or the path itself without any; and the folders with submissions."""
    runs, folders = [], []
    for folder, below, files in os.walk(path):
        if {"run.json", "planning.json"} & set(files):
            runs.append(Path(folder))
            is_planned = "plan.json" in files or PLANNING not in below
            below[:] = [] if is_planned else [PLANNING]
        elif "submissions" in below:
            folders.append(Path(folder))
            below.remove("submissions")
    return sorted(runs) or [path], sorted(folders)


def _watch(command: StatusCommand) -> Found:
    """Show the runs until the state of all is final, or until Ctrl-C; returns the last result."""
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
    """Yields a function that shows the runs: in place on a terminal, else as lines every half minute."""
    console = Terminal(soft_wrap=True)
    if quiet:
        yield lambda found: None
    elif console.is_terminal:
        from rich.live import Live

        # Wrapped by rich, which has to count the lines to erase them.
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
    """Returns a line for each run with its problems below, then the queued commands."""
    lines = []
    for status in found.runs:
        lines.append(Text(_line(status), style=COLOURS[status.state]))
        lines += [Text(f"  {problem}") for problem in _problems(status)]
        for failure in status.failed if with_tracebacks else ():
            tries = f"tried {failure.tries} times" + (", quarantined" if failure.quarantined else "")
            lines.append(Text(f"shard {failure.shard}, {tries}, by {failure.worker}; log: {failure.log or 'none'}"))
            lines.append(Text(failure.traceback.rstrip()))
        for dead in status.dead if with_tracebacks else ():
            when = f", {duration(max(0.0, status.time - dead.time))} ago" if dead.time else ""
            lines.append(Text(f"{dead.worker} ended{when}: {dead.error}; log: {dead.log or 'none'}"))
    for call in found.calls:
        reason = f" ({call.reason})" if call.reason else ""
        line = f"{call.name} of {call.folder}: {call.state}; {call.scheduler} job {call.job}{reason}"
        lines.append(Text(line, style=COLOURS[call.state]))
        if call.error:
            lines.append(Text(f"  {call.error}; log: {call.log}"))
    return Group(*lines)


def _line(status: RunStatus) -> str:
    """Returns a run as one line, without what is 0 or unknown."""
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
                hours = seconds / 3600
                spent = f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
                words.append(f"{spent} {name}-hours" if hours >= 1 else f"{duration(seconds)} of {name} time")
    line = ", ".join(words)
    if not status.queue:
        return line
    counts = Counter(
        f"{job.state.lower()} ({job.reason})"
        if job.state == "PENDING" and job.reason not in ("", "None")
        else job.state.lower()
        for job in status.queue
    )
    return f"{line}; {status.scheduler}: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def _problems(status: RunStatus) -> Iterator[str]:
    """Yields lines on why a run is not complete, and what to do."""
    if status.complete:
        return
    if status.silence:
        yield f"{status.silence}; this is the state by the run folder"
    if not status.planned:
        alive = next((worker.worker for worker in status.workers if worker.alive), "no living process")
        together = (status.path / PLANNING / "run.json").exists()
        yield "no plan yet; workers share the planning" if together else f"no plan yet; {alive} is planning it"
    if status.last_error is not None:
        error = status.last_error
        what = f"worker {error.worker}" if error.shard is None else f"shard {error.shard}"
        log = f"; log: {error.log}" if error.log else ""
        when = duration(max(0.0, status.time - error.time)) + " ago" + (", fixed since" if error.mended else "")
        yield f"last error ({what}, {when}): {error.error}{log}"
    quarantined = sum(failure.quarantined for failure in status.failed)
    if quarantined:
        yield f"{quarantined:,} quarantined (--failed shows why); fix the cause and repeat with --retry-failed"
    if status.state == "stopped" and not status.given_up:
        quiet = duration(status.quiet_seconds)
        fix = "fix the cause of the last error, then " if status.last_error and status.last_error.permanent else ""
        yield f"no worker is alive, and nothing changed for {quiet}; {fix}repeat the command to go on"


if __name__ == "__main__":
    sys.exit(main())
