"""What a report is made of: sections, each with a text, tables and plots. A module makes one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

FINDINGS = 3
"""Up to so many models, the findings say something of each; of more, one sentence of all."""


@dataclass(frozen=True)
class Table:
    """A table of the report: ``tables/<name>.csv`` with all digits, ``.md`` and ``.tex`` (booktabs) for people.

    Attributes:
        name: of the files; see `file_name`.
        caption: one sentence that says what a number of it is.
        frame: the numbers; shares as 0..1.
        shown: the same for people, every cell a text; None shows ``frame`` itself, numbers with three digits.

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
        caption: one sentence that says what is seen.
        size: width and height in inches; a paper's column is `drawing.COLUMN_INCHES` wide.
        draw: draws onto an empty matplotlib figure in the report's style.
        data: the numbers in it.

    """

    name: str
    caption: str
    size: tuple[float, float]
    draw: Callable[[Figure], None]
    data: pd.DataFrame


@dataclass(frozen=True)
class Section:
    """A part of report.md or details.md under a heading of its own: a Markdown text, then its tables and plots.

    Attributes:
        title: the heading.
        text: Markdown below it.
        tables: all are written, and linked.
        plots: all are written, and shown unless they are among ``details``.
        brief: those of the tables that are printed.
        findings: for the beginning of report.md, one Markdown sentence each, with numbers and intervals.
        details: those of the plots that are only linked.

    """

    title: str
    text: str
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    brief: tuple[Table, ...] = ()
    findings: tuple[str, ...] = ()
    details: tuple[Plot, ...] = ()
