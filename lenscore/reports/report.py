"""The report: everything that people read of some runs, in one folder.

    report.md            what a person reads in two minutes
    tables/<name>.{csv,md,tex}
    figures/<name>.{png,svg,pdf,csv}
    viewer/index.html
    report.json          which runs it was made from; written last, and what makes a folder a report

Nothing here depends on the time, the machine or the order of the runs on the command line beyond their order in the
tables: the same runs give the same bytes. A further section is one module and one entry in `SECTIONS`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lenscore.reports.agreements import agreement_section
from lenscore.reports.alignment import alignment_section
from lenscore.reports.drawing import save_plot
from lenscore.reports.rates import rates_section
from lenscore.reports.sections import Section
from lenscore.reports.sources import Sources, read_sources
from lenscore.reports.summary import Summary
from lenscore.reports.tables import write_table
from lenscore.reports.text import report_text
from lenscore.reports.viewer import write_viewer
from storage_layouts.errors import InputError
from storage_layouts.files import is_leftover, write_atomic, write_json

SECTIONS: tuple[Callable[[Sources], Section | None], ...] = (
    rates_section,
    alignment_section,
    agreement_section,
)
"""What makes the sections of report.md, in their order; each gives None where the runs have nothing for it."""
_MARK = "report.json"
_OURS = {"report.md", "tables", "figures", "viewer", _MARK}


@dataclass(frozen=True)
class ReportFiles:
    """What ``write_report`` wrote: the folder, report.md, the viewer's index, all tables and figures."""

    folder: Path
    report: Path
    viewer: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    summaries: tuple[Summary, ...]


def write_report(runs: Sequence[Path], out: Path, max_images: int = 500) -> ReportFiles:
    """Write the report of runs into a folder, in place of an earlier report there.

    A judge run brings its analyze run along. An analyze run alone gives a viewer and the layer alignment, without
    rates. ``max_images`` bounds the images of the viewer, per analyze run.

    Raises:
        InputError: no run given, or ``out`` holds something else than a report.
        IncompleteError, CorruptError: a run is not complete or damaged.

    """
    sources = read_sources(runs)
    sections = [section for make in SECTIONS if (section := make(sources)) is not None]
    _make_room(out)
    tables = [path for section in sections for table in section.tables for path in write_table(table, out / "tables")]
    figures = [path for section in sections for plot in section.plots for path in save_plot(plot, out / "figures")]
    viewer = write_viewer(out / "viewer", sources.analyses, max_images)
    report = out / "report.md"
    write_atomic(report, report_text(sources, sections).encode())
    write_json(out / _MARK, {"format": 2, "runs": sources.identity()})
    summaries = tuple(judge.summary for source in sources.analyses for judge in source.judges)
    return ReportFiles(out, report, viewer, tuple(tables), tuple(figures), summaries)


def _make_room(out: Path) -> None:
    """Remove an earlier report, and nothing else."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: a file; choose a new folder")
    found = {path.name for path in out.iterdir()} if out.exists() else set()
    others = {name for name in found - _OURS if not is_leftover(name)}
    if others:
        example = min(others)
        raise InputError(
            f"--out {out}: not a report but a folder with other things in it, e.g. {example}; choose another"
        )
    for name in sorted(found):
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    out.mkdir(parents=True, exist_ok=True)
