"""Precision over recall of detectors of nouns that images do not have."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import COLUMN_INCHES, label_text, lens_style
from lenscore.reports.parts.layer_plots import label_figure, rate_axis
from lenscore.reports.sections import Plot
from lenscore.unseen_nouns.scored_nouns import CONFIDENCE, OWN, TOGETHER, calibrated


def curve_plot(curves: pd.DataFrame, lenses: Sequence[str], chance: float) -> Plot:
    """The figure of a `curve_table`: the calibrated lenses, together and alone, and the published detectors.

    Args:
        curves: columns detector, score, precision and recall, from the highest score on.
        lenses: those of the run.
        chance: the share of nouns that images do not have, which is the precision by chance.

    """
    caption = "Precision and recall of nouns that images do not have, at each score; thin dotted line: chance."
    return Plot("curve", caption, (COLUMN_INCHES, 3.2), partial(_draw, curves, lenses, chance), curves)


def _draw(curves: pd.DataFrame, lenses: Sequence[str], chance: float, figure: Figure) -> None:
    axes = figure.add_subplot()
    styles: dict[str, dict[str, Any]] = {
        calibrated(title_of(lens)): {"color": lens_style(lens, lenses)[0], "linewidth": 1.0} for lens in lenses
    }
    dashes: dict[str, Any] = {calibrated(TOGETHER): "-", CONFIDENCE: (0, (4, 1.5)), OWN: (0, (4, 1.2, 1, 1.2))}
    styles |= {name: {"color": "#000000", "linestyle": dash, "linewidth": 1.2} for name, dash in dashes.items()}
    for name, lines in curves.groupby("detector", sort=False):
        if name in styles:
            axes.plot(lines["recall"], lines["precision"], label=label_text(str(name)), **styles[str(name)])
    axes.axhline(chance, color="#555555", linewidth=0.6, linestyle=(0, (1, 1.2)))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    rate_axis(axes)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    label_figure(figure, "recall", "precision")
