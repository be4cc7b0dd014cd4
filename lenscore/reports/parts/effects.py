"""What the sections on intervene runs have in common: the lines of their tables, numbers with intervals, figures."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes

from lenscore.reports.parts.layer_plots import draw_band
from lenscore.statistics.sources import AnalyzeSource, Sources, run_labels
from storage_layouts.runs import RunFolder


def lines_of_runs(sources: Sources, read: Callable[[RunFolder], pa.Table]) -> dict[str, pd.DataFrame]:
    """One table of all intervene runs, by the label of the run; without runs where it is empty."""
    known = [(label, run) for source in sources.analyses for label, run in _labelled(source)]
    return {label: lines for label, run in known if len(lines := read(run).to_pandas())}


def _labelled(source: AnalyzeSource) -> list[tuple[str, RunFolder]]:
    runs = source.interventions
    if len(runs) == 1:
        return [(source.label, runs[0])]
    return [(f"{source.label}, {name}", run) for name, run in zip(run_labels(runs), runs, strict=True)]


def by_model(lines: Mapping[str, pd.DataFrame], summarise: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """The summary of each run's lines below each other, with the label as the first column, ``model``."""
    means = pd.concat([summarise(found).assign(model=label) for label, found in lines.items()], ignore_index=True)
    means.insert(0, "model", means.pop("model"))
    return means


def interval_text(line: Mapping[Hashable, Any], name: str) -> str:
    """A number of a line with its bounds ``name_low`` and ``name_high``, if they are known; "–" for none."""
    value, low, high = (line[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value != value:
        return "–"
    return f"{value:.2g}" if low != low else f"{value:.2g} ({low:.2g} to {high:.2g})"


def draw_means(axes: Axes, lines: pd.DataFrame, colour: str, **style: Any) -> None:
    """Draw divergences with their intervals over layers on a logarithmic axis."""
    middle, low, high = (lines[f"divergence{end}"].to_numpy(np.float64) for end in ("", "_low", "_high"))
    shown = np.maximum(low, 1e-3 * middle)  # on a logarithmic axis a bound below 0 lies below everything
    draw_band(axes, lines["layer"], middle, shown, high, colour, **style)
