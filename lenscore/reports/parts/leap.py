"""The mid-layer leap: the contextual layers of most nearest neighbours of each visual layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from lenscore.reports.parts.drawing import COLOURS, COLUMN_INCHES, MARKERS, label_text
from lenscore.reports.parts.neighbours import Neighbours
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.statistics.intervals import clustered_mean

LEAP_COLUMNS = [
    *("model", "visual_layer", "patches", "images", "mean", "low", "high", "median", "quarter", "three_quarters"),
    *("mode", "mode_share", "mostly_from", "mostly_to", "mostly_share", "depth", "mean_depth", "own_layer"),
]
_COLOURED = 6
"""Up to this many models, each line has its own colour; of more only the mean has one."""


def leap_table(found: Mapping[str, tuple[Neighbours, int | None]]) -> pd.DataFrame:
    """The nearest neighbours' contextual layers by model and visual layer; columns ``LEAP_COLUMNS``.

    ``found`` has the neighbours and the depth (None if unknown) of each model. ``mean`` has a 95 % interval over
    images. ``mostly_from`` to ``mostly_to`` is the shortest range of layers of the store with more than half of the
    neighbours. ``mean_depth`` is the mean as a share of the depth. ``own_layer`` is whether the visual layer was
    among the contextual layers that were searched.
    """
    lines = []
    for model, (neighbours, depth) in found.items():
        layers = np.array(neighbours.contextual)
        for place, layer in enumerate(neighbours.visual):
            nearest, sizes = neighbours.nearest[place], neighbours.sizes[:, place]
            if not nearest.sum():
                continue
            ends = float(layers[0]), float(layers[-1])
            mean, low, high = map(float, clustered_mean(neighbours.sums[:, place], sizes, ends))
            middle = [_quantile(layers, nearest, share) for share in (0.5, 0.25, 0.75)]
            mode = [int(layers[nearest.argmax()]), float(nearest.max() / nearest.sum())]
            of_depth = [depth, mean / depth] if depth else [None, None]
            numbers = [model, layer, int(nearest.sum()), int((sizes > 0).sum()), mean, low, high, *middle, *mode]
            lines.append([*numbers, *_mostly(layers, nearest), *of_depth, layer in neighbours.searched])
    return pd.DataFrame(lines, columns=LEAP_COLUMNS)


def leap_shown(leap: pd.DataFrame) -> pd.DataFrame:
    """The table for the report: all visual layers of one model, or the first layer of each of several."""
    one = leap["model"].nunique() == 1
    lines = []
    for line in (leap if one else leap.drop_duplicates("model")).to_dict("records"):
        depth = f"{100 * line['mean_depth']:.0f} %" if pd.notna(line["mean_depth"]) else "–"
        numbers = [f"{line['mean']:.1f} ({line['low']:.1f}–{line['high']:.1f})", str(line["median"]), depth]
        mode = f"{line['mode']} ({100 * line['mode_share']:.0f} %)"
        mostly = f"{_span(line)} ({100 * line['mostly_share']:.0f} %)"
        name = [] if one else [line["model"]]
        lines.append([*name, str(line["visual_layer"]), *numbers, mode, mostly, f"{line['patches']:,}"])
    headings = ["Visual layer", "Mean", "Median", "Mean of depth", "Most frequent", "Mostly from", "Patches"]
    shown = pd.DataFrame(lines, columns=headings if one else ["Model", *headings])
    return shown if leap["depth"].notna().any() else shown.drop(columns="Mean of depth")


def leap_sentence(model: str, leap: pd.DataFrame) -> str:
    """A sentence about the nearest neighbours of the first visual layer."""
    line = leap.iloc[0].to_dict()
    layer = int(line["visual_layer"])
    # If the store does not have the layer, neighbours from later layers only are no finding.
    caveat = "" if line["own_layer"] else f"; the store holds no contextual layer {layer}"
    return (
        f"{markdown_text(model)}: at visual layer {layer} the nearest neighbours come mostly from contextual "
        f"{_layers(line)} ({100 * line['mostly_share']:.0f} % of {line['patches']:,}; mean {line['mean']:.1f} "
        f"({line['low']:.1f}–{line['high']:.1f}), median {line['median']}{caveat})."
    )


def leaps_sentence(leap: pd.DataFrame) -> str:
    """A sentence about many models."""
    first = leap.drop_duplicates("model")
    spans = Counter(_layers(line) for line in first.to_dict("records"))
    often = ", ".join(f"{span} ({count} runs)" for span, count in spans.most_common(3))
    rest = len(first) - sum(count for _, count in spans.most_common(3))
    means = first["mean"]
    return (
        f"At the first visual layer the nearest neighbours come mostly from contextual {often}"
        + (f" and others ({rest})" if rest else "")
        + f"; the mean contextual layer is {means.min():.1f} to {means.max():.1f} by run."
    )


def leap_size(leap: pd.DataFrame) -> tuple[float, float]:
    """Width and height of the figure in inches."""
    models = leap["model"].nunique()
    return COLUMN_INCHES, 2.3 + 0.13 * (models if 1 < models <= _COLOURED else 2)


def draw_leap(leap: pd.DataFrame, figure: Figure) -> None:
    """Draw the mean contextual layer by visual layer, and the quartiles of a single model.

    For models of different depths, layers are shares of the depth.
    """
    axes = figure.add_subplot()
    models = list(leap["model"].unique())
    by_depth = leap["depth"].nunique() > 1 and leap["depth"].notna().all()
    scale = leap["depth"].astype(float) if by_depth else 1.0
    drawn = leap.assign(x=leap["visual_layer"] / scale, y=leap["mean"] / scale)
    ends = [0.0, float(max(drawn["x"].max(), drawn["y"].max()))]
    axes.plot(ends, ends, color="#777777", linewidth=0.8, linestyle="--", label="same layer")
    if len(models) == 1:
        line = drawn.sort_values("x")
        band = line["quarter"].astype(float), line["three_quarters"].astype(float)
        axes.fill_between(line["x"], *band, color=COLOURS[0], alpha=0.18, linewidth=0, label="middle half")
        axes.plot(line["x"], line["mode"], "s", color=COLOURS[1], markersize=3, fillstyle="none", label="most frequent")
    for place, (model, line) in enumerate(drawn.groupby("model", sort=False)):
        line = line.sort_values("x")
        if len(models) <= _COLOURED:
            name = "mean" if len(models) == 1 else label_text(str(model), 40)
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            axes.plot(line["x"], line["y"], color=colour, marker=marker, markersize=3, linewidth=1, label=name)
        else:
            name = f"one of {len(models)} models" if place == 0 else "_"  # matplotlib's sign for no entry
            axes.plot(line["x"], line["y"], color="#999999", linewidth=0.6, label=name)
    if len(models) > _COLOURED:
        mean = drawn.groupby("x")["y"].mean()
        if drawn.groupby("x")["model"].nunique().min() == len(models):
            axes.plot(mean.index, mean, color=COLOURS[0], marker="o", markersize=3, linewidth=1.4, label="their mean")
    unit = " (share of depth)" if by_depth else ""
    axes.set_xlabel(f"visual layer{unit}")
    axes.set_ylabel(f"contextual layer{unit}")
    axes.set_ylim(0, None)
    axes.grid()
    figure.legend(loc="outside upper center", ncols=1 if 1 < len(models) <= _COLOURED else 2, columnspacing=1)


def _quantile(layers: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], share: float) -> int:
    """The quantile of a layer distribution: the smallest layer whose cumulative share reaches ``share``."""
    return int(layers[np.searchsorted(np.cumsum(counts), share * counts.sum())])


def _mostly(layers: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> tuple[int, int, float]:
    """First and last layer of the shortest range with more than half of the counts, and its share."""
    shares = counts / counts.sum()
    for length in range(1, len(layers) + 1):
        held = np.convolve(shares, np.ones(length), "valid")
        if held.max() > 0.5:
            break
    first = int(held.argmax())
    return int(layers[first]), int(layers[first + length - 1]), float(held[first])


def _layers(line: Mapping[Any, object]) -> str:
    return ("layer " if line["mostly_from"] == line["mostly_to"] else "layers ") + _span(line)


def _span(line: Mapping[Any, object]) -> str:
    first, last = line["mostly_from"], line["mostly_to"]
    return str(first) if first == last else f"{first} to {last}"
