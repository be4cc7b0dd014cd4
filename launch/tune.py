"""`lens tune`: the command line of jobs/tune_settings.py; writes the lens as a folder of the tuned-lens package."""

from __future__ import annotations

import csv
import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from jobs.base import STATES
from jobs.tune_settings import TuneSettings
from launch.stages import command_with_end
from launch.terminal import print_out, to_file_or_terminal
from storage_layouts.files import write_atomic
from storage_layouts.runs import RunFolder

COLUMNS = ("layer", "logit_cross_entropy", "tuned_cross_entropy", "logit_divergence", "tuned_divergence")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return command_with_end(TuneSettings, argv, finish)


def finish(run: RunFolder) -> None:
    """Write the folder of the tuned-lens package and the evaluation, print it, and delete the training states."""
    from storage_layouts.tuned_lens import CONFIG, TunedLensFiles

    rows = list(_evaluation(run))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    write_atomic(run.path / "evaluation.csv", text.getvalue().encode())
    if not (run.path / "lens" / CONFIG).exists():  # the last of its files
        TunedLensFiles.open(run.path).write_folder(run.path / "lens")
    shutil.rmtree(run.path / STATES, ignore_errors=True)
    table = Table(title="held-out text, nats per token", title_justify="left")
    for column in COLUMNS:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    to_file_or_terminal(120).print(table)
    for path in (run.path / "evaluation.csv", run.path / "lens"):
        print_out(path)


def _evaluation(run: RunFolder) -> Iterator[tuple[Any, ...]]:
    """Yields lines of `COLUMNS` in the order of the layers; at layer "final" every lens is the model itself."""
    from storage_layouts.tuned_lens import read_measures

    final = None
    for found in read_measures(run):
        for one in found["layers"]:
            yield (
                one["layer"],
                *(one[lens][what] for what in ("cross_entropy", "divergence") for lens in ("logit", "tuned")),
            )
        final = found["final"]["cross_entropy"]
    yield "final", final, final, 0.0, 0.0


if __name__ == "__main__":
    sys.exit(main())
