"""Counts the steps that the workers of a training compute, and kills at a chosen one, wherever the workers run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_HOOK = """
import os, signal, sys

if any(word in " ".join(sys.orig_argv) for word in ("jobs.worker", "slurm_element", "submitit", "default_worker")):
    from pathlib import Path

    from lenscore.training.trainer import ConnectorTrainer

    train_step, computed = ConnectorTrainer.train_step, Path(__file__).parent / "computed"

    def counted(trainer):
        record = train_step(trainer)
        with computed.open("a") as file:
            file.write(f"{record.step}\\n")
        blow = computed.parent / str(len(computed.read_text().split()))
        if blow.exists():
            os.kill(0 if blow.read_text() == "group" else os.getpid(), signal.SIGKILL)
        return record

    ConnectorTrainer.train_step = counted
"""


class CountedSteps:
    """The steps that were computed with `environment`, and the blows that fell.

    ``blows``: how many steps all workers together have computed when the one at work is killed with SIGKILL, and what
    with it: "worker", or the "group" of processes that it is of.
    """

    def __init__(self, folder: Path, blows: Mapping[int, str]) -> None:
        self._folder = folder
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_HOOK)
        for count, victim in blows.items():
            (folder / str(count)).write_text(victim)

    @property
    def environment(self) -> dict[str, str]:
        """Of the processes that are to count."""
        project = Path(__file__).parent.parent
        return {**os.environ, "PYTHONPATH": f"{self._folder}{os.pathsep}{project}"}

    @property
    def computed(self) -> list[int]:
        """The steps, in the order in which they were computed."""
        return [int(line) for line in (self._folder / "computed").read_text().split()]
