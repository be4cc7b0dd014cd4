"""How far several judges agree with each other, and one that was asked again with itself."""

from __future__ import annotations

import pandas as pd

from lenscore.reports.intervals import Rate
from lenscore.reports.panel import AGREEMENT_COLUMNS
from lenscore.reports.sections import Section, Table
from lenscore.reports.sources import Sources


def agreement_section(sources: Sources) -> Section | None:
    """The agreement in all judge runs; None where each judge was asked once and alone."""
    frames = [
        judge.agreement.assign(model=judge.summary.model)
        for source in sources.analyses
        for judge in source.judges
        if len(judge.agreement)
    ]
    if not frames:
        return None
    frame = pd.concat(frames, ignore_index=True)[["model", *AGREEMENT_COLUMNS]]
    table = Table("agreement", "How often two say the same, where both say yes or no.", frame, _shown(frame))
    return Section("Agreement of judges", table.caption + "\n", (table,), brief=(table,))


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for line in frame.to_dict("records"):
        rate = Rate.of(line["agree"], line["n"])
        second = "itself, asked again" if line["first"] == line["second"] else line["second"]
        lines.append([line["model"], line["first"], second, str(rate.n), f"{rate.percent} ({rate.interval})"])
    return pd.DataFrame(lines, columns=["model", "judge", "and", "questions", "agree"])
