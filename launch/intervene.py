"""`lens intervene`: the command line of jobs/intervene_settings.py; at the end, tables of effects and their means."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from jobs.intervene_settings import InterveneSettings
from launch.stages import command_with_end
from launch.terminal import print_out, to_file_or_terminal
from storage_layouts.files import write_atomic
from storage_layouts.runs import RunFolder

if TYPE_CHECKING:
    import pandas as pd


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return command_with_end(InterveneSettings, argv, _finish)


def _finish(run: RunFolder) -> None:
    """Write effects.csv and summary.csv, and print the means over all layers."""
    from lenscore.reports.parts.table_formats import csv_bytes
    from lenscore.statistics.faithfulness import summarise
    from storage_layouts.interventions import read_effects

    effects = read_effects(run).to_pandas()
    summary = summarise(effects)
    for name, table in (("effects.csv", effects), ("summary.csv", summary)):
        write_atomic(run.path / name, csv_bytes(table))
    to_file_or_terminal(120).print(_printed(summary))
    for name in ("effects.csv", "summary.csv"):
        print_out(run.path / name)


def _printed(summary: pd.DataFrame) -> Table:
    table = Table(title="mean over layers and images; recovered: of the effect of the mean state", title_justify="left")
    for column in ("target", "lens", "substitute", "divergence, nats a token", "recovered (95 %)"):
        table.add_column(column, justify="right" if "," in column or "(" in column else "left")
    for line in summary[summary["layer"] == "all"].to_dict("records"):
        recovered, low, high = (line[name] for name in ("recovered", "recovered_low", "recovered_high"))
        named = (str(line[name]) for name in ("target", "lens", "substitute"))
        table.add_row(*named, f"{line['divergence']:.3g}", f"{recovered:.2f} ({low:.2f} to {high:.2f})")
    return table


if __name__ == "__main__":
    sys.exit(main())
