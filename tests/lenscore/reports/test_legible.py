"""Figures as a reader of a paper meets them: nothing is cut off, no text is tiny, whatever the runs are like."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from lenscore.reports.agreements import agreement_section
from lenscore.reports.alignment import alignment_section
from lenscore.reports.corpus_sizes import corpus_section
from lenscore.reports.parts.drawing import COLUMN_INCHES, PAGE_INCHES, drawn
from lenscore.reports.pass_at_k import pass_section
from lenscore.reports.rates import rates_section
from lenscore.reports.sections import Plot
from lenscore.statistics.sources import read_sources

SECTIONS = (rates_section, alignment_section, pass_section, corpus_section, agreement_section)
LONG = "organisation/A-Model-With-A-Very-Long-Name-72B-Instruct-GPTQ-Int4"


def assert_legible(plot: Plot) -> None:
    """All texts lie on the figure and have at least six points."""
    assert plot.size[0] in (COLUMN_INCHES, PAGE_INCHES)
    figure = drawn(plot)
    figure.draw_without_rendering()  # which places the lines of legends
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = [(axis, one) for one in figure.axes for axis in (one.xaxis, one.yaxis)]
    beyond = {
        label
        for axis, _ in axes
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        for label in (tick.label1, tick.label2)
    }  # ticks beyond the limits of an axis are not drawn
    for text in figure.findobj(Text):
        if not text.get_visible() or not text.get_text().strip() or text in beyond:
            continue
        box, what = text.get_window_extent(renderer), (plot.name, text.get_text())
        assert text.get_fontsize() >= 6, what
        assert box.x0 > -2, what
        assert box.x1 < figure.bbox.width + 2, what
        assert box.y0 > -2, what
        assert box.y1 < figure.bbox.height + 2, what
    assert len(plot.data)


@pytest.mark.parametrize("models", [1, 2, 7])
def test_no_text_is_cut_off_or_tiny(models: int, make_results, judge, tmp_path: Path) -> None:
    parts = {"llm": f"a/{'L' * 40}", "vision": f"v/{'V' * 40}"}
    runs = []
    for i in range(models):
        made_of = parts | {"llm": f"{parts['llm']}{i % 2}", "seed": i // 2} if i < 4 else None
        results = make_results(tmp_path / str(i), images=3, model=f"{LONG}-{i}", made_of=made_of, fraction=0.1, luck=i)
        runs.append(judge(results, tmp_path / str(i) / "judge", patches=3))
        if i == 0:
            runs.append(judge(results, tmp_path / "others", patches=3, judge="truth:colour+texture+noun+size"))
            other = make_results(tmp_path / "other", images=3, model=f"{LONG}-0", made_of=made_of, fraction=1.0)
            runs.append(judge(other, tmp_path / "other/judge", patches=3))
    sources = read_sources(runs)
    sections = [section for make in SECTIONS if (section := make(sources)) is not None]
    assert len(sections) == 5
    plots = [plot for section in sections for plot in section.plots]
    assert len({plot.name for plot in plots}) == len(plots)
    for plot in plots:
        assert_legible(plot)
