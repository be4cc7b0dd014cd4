"""Run a stage on the test cluster while something happens to it."""

from __future__ import annotations

import io
import shlex
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from jobs.extract_job import ExtractJob
from launch.clusters.slurm import Slurm
from launch.stages import Launch, run_stage
from storage_layouts.runs import RunFolder

FORKED = shlex.join([sys.executable, "-S", str(Path(__file__).with_name("forked_python.py"))])
"""A --python for jobs; see there."""
FRESH = Slurm(memory="400MB", gpus_per_node=1)
"""Workers that the virtual nodes have room for; on the CPU, with a fake GPU each."""
SMALL = replace(FRESH, python=FORKED)
"""The same, forked: where the subject is not what SLURM does to a process."""

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Outcome:
    """The exit code of a command and what it said."""

    code: int
    words: str


class Strike:
    """What a blow waits for: only the end of the command ends the waiting, however slow the machine is."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def when(self, ready: Callable[[], Seen], what: str) -> Seen:
        """Wait until `ready` returns something true, and return it. AssertionError if the command ends before."""
        while True:
            over = self.over.is_set()
            if seen := ready():
                return seen
            assert not over, f"the command ended before {what}"
            time.sleep(0.1)


def run_on_slurm(
    job: ExtractJob, blow: Callable[[Path, Strike], None] | None = None, slurm: Slurm = SMALL, **launch: object
) -> Outcome:
    """The command `lens extract --cluster slurm`, in this process; `blow` strikes meanwhile, in a thread of its own."""
    errors: list[BaseException] = []
    strike = Strike()

    def run_blow() -> None:
        try:
            if blow is not None:
                blow(job.out, strike)
        except BaseException as error:
            errors.append(error)

    striker = threading.Thread(target=run_blow, daemon=True)
    words = io.StringIO()
    settings = {"cluster": "slurm", "workers": 1, "device": "cpu", "stale_after": 6.0, "slurm": slurm} | launch
    striker.start()
    try:
        code = run_stage(job, Launch(**settings), Console(file=words, width=200))
    finally:
        strike.over.set()
        striker.join()
    if errors:
        raise errors[0]
    return Outcome(code, words.getvalue())


def at_work(out: Path) -> list[dict[str, object]]:
    """The heartbeats of the workers that have a shard in hand."""
    try:
        return [beat for beat in RunFolder.open(out).heartbeats() if beat.get("shard") is not None and not beat["dead"]]
    except Exception:  # not created yet
        return []
