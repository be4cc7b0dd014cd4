"""The curves of a training: loss, gradient and learning rate by step, as figures and as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from storage_layouts.files import write_atomic

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

CURVES = ("curves.csv", "curves.png", "curves.svg")
"""The files of `draw_curves`."""
SMOOTHED_OVER = 50
"""Steps whose median is drawn over the single losses."""
_TICKS = 4
"""On a small axis."""


def read_losses(run: Path) -> pd.DataFrame:
    """One line a step of a run folder: step, loss, gradient_norm, learning_rate, tokens."""
    import pandas as pd

    spans = [json.loads(path.read_bytes()) for path in sorted((run / "losses").glob("[0-9]*.json"))]
    columns = ("step", "loss", "gradient_norm", "learning_rate", "tokens")
    return pd.concat([pd.DataFrame({name: span[name] for name in columns}) for span in spans], ignore_index=True)


def smoothed(losses: pd.Series) -> pd.Series:
    """Medians of the steps around each, as they are drawn.

    The first windows are short enough to be as long on both sides: losses fall fastest there, and a window that looked
    ahead alone would be far below the curve.
    """
    medians = losses.rolling(SMOOTHED_OVER, min_periods=1, center=True).median()
    for step in range(min(SMOOTHED_OVER // 2, len(losses))):
        medians.iloc[step] = losses.iloc[: 2 * step + 1].median()
    return medians


def _label_few(axes: Axes) -> None:
    """Few tick labels on a low logarithmic axis: at powers of ten, or, within one decade, at any numbers."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(numticks=_TICKS) if high >= 10 * low else MaxNLocator(_TICKS - 1))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_curves(run: Path) -> list[Path]:
    """Write `CURVES` into a run folder and return their paths.

    Nothing in them depends on the time or the machine. A run without steps has none.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    losses = read_losses(run)
    if losses.empty:
        return []
    table, *pictures = (run / name for name in CURVES)
    write_atomic(table, losses.to_csv(index=False, lineterminator="\n").encode())
    # The user's own matplotlib settings (backend, style sheets) must not change the bytes.
    with mpl.rc_context({"svg.hashsalt": "lenscore", "svg.fonttype": "none", "font.size": 7}):
        figure = Figure(figsize=(5.0, 4.0), dpi=200, layout="constrained")
        loss, gradient, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
        loss.plot(losses["step"], losses["loss"], color="#56b4e9", linewidth=0.5)
        loss.plot(
            losses["step"],
            smoothed(losses["loss"]),
            color="#0072b2",
            linewidth=1.2,
            label=f"median of {SMOOTHED_OVER} steps",
        )
        loss.set_ylabel("loss (nats a token)")
        loss.legend(frameon=False)
        gradient.plot(losses["step"], losses["gradient_norm"], color="#d55e00", linewidth=0.5)
        gradient.set_ylabel("gradient norm")
        gradient.set_yscale("log")
        _label_few(gradient)
        rate.plot(losses["step"], losses["learning_rate"], color="#009e73", linewidth=1.0)
        rate.set_ylabel("learning rate")
        rate.set_xlabel("step")
        for path, metadata in zip(pictures, ({"Software": None}, {"Date": None, "Creator": None}), strict=True):
            figure.savefig(path, metadata=metadata)
    return [table, *pictures]
