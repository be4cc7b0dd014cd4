"""Figures for a paper's column, each as PNG, SVG and PDF beside the CSV it was drawn from.

Nothing in the files depends on the time or the machine. Colours are Okabe and Ito's, which colour-blind readers
can tell apart; every lens has a marker of its own besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lenscore.reports.summary import OTHER_PATCH, RANDOM_WORDS, TITLES, Summary, csv_bytes

COLUMN_INCHES = 3.3
_STYLES = {"latent": ("#0072b2", "o"), "embedding": ("#009e73", "s"), "logit": ("#d55e00", "^")}
_FURTHER = [("#cc79a7", "D"), ("#56b4e9", "v"), ("#e69f00", "P")]
_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "svg.hashsalt": "lenscore",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def rates_figure(summary: Summary, stem: Path) -> list[Path]:
    """Draw rate by layer for every lens with 95 % intervals, other patches' words and chance.

    Writes ``stem`` with the endings .png, .svg, .pdf, .csv and returns these paths.
    """
    with _drawing(COLUMN_INCHES, 2.5) as figure:
        axes = figure.add_subplot()
        places = np.arange(len(summary.layers))
        further = iter(_FURTHER * 3)
        width = 0.12
        for turn, lens in enumerate(summary.lenses):
            colour, marker = _STYLES.get(lens) or next(further)
            rates = [summary.rate(lens, layer) for layer in summary.layers]
            middle = np.array([rate.rate for rate in rates])
            reach = np.array([[rate.rate - rate.low, rate.high - rate.rate] for rate in rates]).T.clip(min=0)
            at = places + width * (turn - (len(summary.lenses) - 1) / 2)
            axes.errorbar(
                at,
                middle,
                reach,
                color=colour,
                marker=marker,
                markersize=3.5,
                linewidth=1.2,
                elinewidth=0.8,
                capsize=1.5,
                label=TITLES.get(lens, lens),
            )
            others = [summary.control(OTHER_PATCH, lens, layer).rate for layer in summary.layers]
            axes.plot(at, others, color=colour, linewidth=0.8, linestyle=(0, (1, 1.5)))
        axes.plot([], [], color="#555555", linewidth=0.8, linestyle=(0, (1, 1.5)), label="other patch's words")
        chance = [summary.control(RANDOM_WORDS, layer=layer).rate for layer in summary.layers]
        axes.plot(places, chance, color="#000000", linewidth=0.9, linestyle="--", label="random words (chance)")
        axes.set_xticks(places, [str(layer) for layer in summary.layers])
        axes.set_xlabel("visual layer")
        axes.set_ylabel("patches named rightly")
        axes.set_ylim(0, 1 if _highest(summary) > 0.75 else None)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(axis="y", linewidth=0.4, color="#dddddd")
        axes.set_axisbelow(True)
        handles, labels = axes.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda i: labels[i].endswith(("words", "(chance)")))
        chosen = [handles[i] for i in order], [labels[i] for i in order]
        figure.legend(*chosen, loc="outside upper center", ncols=2)
        paths = _save(figure, stem)
    return [*paths, _save_table(pd.concat([_as_control(summary.table), summary.controls]), stem)]


def alignment_figure(counts: pd.DataFrame, stem: Path) -> list[Path]:
    """Draw which contextual layers the neighbours of each visual layer come from, as a heat map.

    ``counts`` as ``alignment.count_alignment`` gives it. Each line of the map sums to 100 %. Writes ``stem`` with
    the endings .png, .svg, .pdf, .csv and returns these paths.
    """
    shares = counts.pivot_table(index="visual_layer", columns="contextual_layer", values="share").to_numpy()
    visual = sorted(counts["visual_layer"].unique())
    contextual = sorted(counts["contextual_layer"].unique())
    with _drawing(COLUMN_INCHES, 0.9 + 0.24 * len(visual)) as figure:
        axes = figure.add_subplot()
        drawn = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(contextual)), [str(layer) for layer in contextual])
        axes.set_yticks(range(len(visual)), [str(layer) for layer in visual])
        axes.set_xlabel("contextual layer of the neighbours")
        axes.set_ylabel("visual layer")
        axes.tick_params(length=0)
        for row, column in np.ndindex(*shares.shape):
            share = shares[row, column]
            axes.text(
                column,
                row,
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                fontsize=6,
                color="#000000" if share > 0.55 else "#ffffff",
            )
        bar = figure.colorbar(drawn, format=PercentFormatter(1, decimals=0), pad=0.02)
        bar.outline.set_linewidth(0.4)
        paths = _save(figure, stem)
    return [*paths, _save_table(counts, stem)]


@contextmanager
def _drawing(width: float, height: float) -> Iterator[Figure]:
    with mpl.rc_context(_SETTINGS):  # without pyplot: no global state, no window system
        yield Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, stem: Path) -> list[Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for ending, metadata in _METADATA.items():
        path = stem.with_name(f"{stem.name}.{ending}")
        figure.savefig(path, dpi=300, metadata=metadata)
        paths.append(path)
    return paths


def _save_table(frame: pd.DataFrame, stem: Path) -> Path:
    path = stem.with_name(f"{stem.name}.csv")
    path.write_bytes(csv_bytes(frame))
    return path


def _as_control(table: pd.DataFrame) -> pd.DataFrame:
    """The lens's own rates in the columns of the controls, with an empty control."""
    return table.assign(control="")


def _highest(summary: Summary) -> float:
    return float(summary.table["high"].max())
