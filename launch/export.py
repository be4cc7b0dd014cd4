"""`lens export RUN --to FILE`: the results of an analyze run as one table for other programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from launch.exit_codes import exit_code
from launch.flags import parse
from launch.progress import StageProgress
from launch.terminal import Terminal, print_out, shown
from storage_layouts.counts import counted
from storage_layouts.errors import InputError
from storage_layouts.files import require_place


@dataclass(frozen=True)
class ExportCommand:
    """Write one line per image, patch, layer, lens and rank, with words, boxes in pixels and scores.

    Of a run that describes prompt and answer, these tokens go into a second table beside it, NAME-texts.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A complete analyze run; its store has to be there too."""
    to: Path
    """The table, a .parquet or .csv file; an older one is replaced."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""

    def run() -> int:
        command = parse(ExportCommand, argv, "lens export")
        require_place(command.to.parent)
        from lenscore.reports.results_table import texts_beside, write_results_table  # these load PyTorch
        from storage_layouts.results import LensResults

        with StageProgress(Terminal(stderr=True), "export") as progress:
            progress.say(f"reading {command.run}")
            results = LensResults.open(command.run)
            if command.run.resolve() in command.to.resolve().parents:
                raise InputError(f"--to {command.to}: is inside the run {command.run}; expected a place outside of it")
            lines = write_results_table(
                results,
                command.to,
                lambda done, shards: progress.say(f"{done:,} of {counted(shards, 'shard')} written"),
            )
        for path, count in lines.items():
            print_out(f"{shown(path)}: {counted(count, 'line')}")
        if (other := texts_beside(command.to)) not in lines and other.exists():
            print_out(f"{shown(other)}: not of this run, which describes no tokens of text")
        return 0

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
