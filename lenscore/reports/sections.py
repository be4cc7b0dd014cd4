"""The parts of a report: sections with a text, tables and plots. Each section has a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SINGLE_RUNS = 12
"""A report of more analyze runs draws no figures of single ones; nobody leafs through hundreds."""
FINDINGS = 3
"""Up to this many models, the findings have a sentence for each; of more, one sentence for all."""


@dataclass(frozen=True)
class Table:
    """A table of the report: ``tables/<name>.csv`` with all digits, ``.md`` and ``.tex`` (booktabs) for reading.

    Attributes:
        name: of the files; see `file_name`.
        caption: one sentence that defines the numbers.
        frame: the numbers; shares as 0..1.
        shown: the formatted cells as text; None formats ``frame`` with three digits.

    """

    name: str
    caption: str
    frame: pd.DataFrame
    shown: pd.DataFrame | None = None


@dataclass(frozen=True)
class Plot:
    """A figure of the report: ``figures/<name>.png``, ``.svg``, ``.pdf``, and ``.csv`` with what was drawn.

    Attributes:
        name: of the files; see `file_name`.
        caption: one sentence that describes the figure.
        size: width and height in inches; `drawing.COLUMN_INCHES` is the width of a paper's column.
        draw: draws onto an empty matplotlib figure in the style of the report.
        data: the numbers in the figure.

    """

    name: str
    caption: str
    size: tuple[float, float]
    draw: Callable[[Figure], None]
    data: pd.DataFrame


@dataclass(frozen=True)
class Section:
    """A section of report.md or details.md: a Markdown text, then tables and plots.

    Attributes:
        title: the heading.
        text: Markdown below the heading.
        tables: written and linked.
        plots: written and shown, unless they are among ``details``.
        brief: the tables that are also printed.
        findings: Markdown sentences for the start of report.md, with numbers and intervals.
        details: the plots that are only linked: those of a single run, where there are several.

    """

    title: str
    text: str
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    brief: tuple[Table, ...] = ()
    findings: tuple[str, ...] = ()
    details: tuple[Plot, ...] = ()

    def without_details(self) -> Section:
        """The section of a report of many runs: without the figures of single ones, which its text counts."""
        if not self.details:
            return self
        names = {plot.name for plot in self.details}
        told = (
            f"{len(names)} figures of single runs are drawn only in a report of at most {SINGLE_RUNS} analyze runs.\n"
        )
        plots = tuple(plot for plot in self.plots if plot.name not in names)
        return replace(self, text=f"{self.text}\n{told}" if self.text else told, plots=plots, details=())
