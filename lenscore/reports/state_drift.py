"""The states of visual tokens in the LLM: their drift over layers, and their norms."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from matplotlib.figure import Figure

from lenscore.reports.parts.drawing import COLOURS
from lenscore.reports.parts.layer_plots import draw_band, label_figure, panels, panels_size, set_layers
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import FINDINGS, Plot, Section, Table
from lenscore.statistics.intervals import clustered_mean
from lenscore.statistics.sources import AnalyzeSource, Sources

_QUARTILES = {"q25": 25, "median": 50, "q75": 75}
COSINE_COLUMNS = ["model", "layer", "first_layer", "baseline", "tokens", "mean", "low", "high", *_QUARTILES]
NORM_COLUMNS = ["model", "layer", "tokens", *_QUARTILES, "p99", "largest"]
BASELINES = ("own", "shuffled")

_LABELS = {"own": "the same token", "shuffled": "another token of the image"}
_STYLES: dict[str, dict[str, Any]] = {
    "own": {"marker": "o"},
    "shuffled": {"marker": "s", "linestyle": (0, (1, 1.2))},
}


def states_section(sources: Sources) -> Section | None:
    """Cosines and norms of all analyze runs that stored them; None without such a run."""
    with_cosines = [source for source in sources.analyses if source.results.has("cosines")]
    with_norms = [source for source in sources.analyses if source.results.has("norms")]
    text, findings, tables, plots = "", [], [], []
    if with_cosines:
        measured = [(source, measure_cosines(source)) for source in with_cosines]
        cosines = pd.concat([found for _, found in measured], ignore_index=True)
        # The output of the last block is a prediction of the next token, and no end of the drift.
        of_blocks = pd.concat([found[found["layer"].isin(source.results.mean_layers)] for source, found in measured])
        first = " and ".join(map(str, sorted(cosines["first_layer"].unique())))
        caption = f"Cosine of a visual token with its own state at layer {first}, and with that of another token"
        plots.append(
            Plot(
                "cosines",
                f"{caption} of its image (shuffled): mean over all tokens; bands are quartiles.",
                panels_size(len(with_cosines)),
                partial(_draw_cosines, cosines, first),
                cosines,
            )
        )
        tables.append(Table("cosines", f"{caption}; 95 % intervals over images.", cosines))
        text = (
            "How far a visual token drifts: the cosine of its state with its own first analysed one, beside that with "
            "the first state of another visual token of the same image, chosen by a hash.\n"
        )
        if len(with_cosines) <= FINDINGS:
            findings = [_cosine_sentence(label, found) for label, found in of_blocks.groupby("model", sort=False)]
        else:
            findings = [_cosines_sentence(of_blocks)]
    if with_norms:
        norms = pd.concat([measure_norms(source) for source in with_norms], ignore_index=True)
        caption = "Length of the hidden states of visual tokens"
        plots.append(
            Plot(
                "norms",
                f"{caption}: median, quartiles (band), 99 % (dotted).",
                panels_size(len(with_norms)),
                partial(_draw_norms, norms),
                norms,
            )
        )
        tables.append(Table("norms", f"{caption} (L2 norm).", norms))
    if not plots:
        return None
    return Section("States of visual tokens", text, tuple(tables), tuple(plots), findings=tuple(findings))


def measure_cosines(source: AnalyzeSource) -> pd.DataFrame:
    """Mean (95 % interval over images) and quartiles of the cosines by layer; columns ``COSINE_COLUMNS``.

    ``baseline`` is own or shuffled. Tokens without a cosine (no other token, or a state of norm 0) do not count.
    """
    table = source.results.cosines()
    _, image = np.unique(table["image_id"].to_numpy(), return_inverse=True)
    layers = source.results.layers
    lines = []
    for place in np.argsort(layers):
        for baseline in BASELINES:
            values = _by_layer(table, baseline, len(layers))[:, place].astype(np.float64)
            known = ~np.isnan(values)
            sums = np.bincount(image[known], values[known], minlength=1)[:, None]
            counts = np.bincount(image[known], known[known], minlength=1)[:, None]
            mean = [float(bound[0]) for bound in clustered_mean(sums, counts)]
            head = [source.label, layers[place], min(layers), baseline, int(known.sum())]
            lines.append([*head, *mean, *_percentiles(values[known], _QUARTILES.values())])
    return pd.DataFrame(lines, columns=COSINE_COLUMNS)


def measure_norms(source: AnalyzeSource) -> pd.DataFrame:
    """Quartiles, 99th percentile and maximum of the norms by layer; columns ``NORM_COLUMNS``."""
    layers = source.results.layers
    norms = _by_layer(source.results.norms(), "norms", len(layers)).astype(np.float64)
    lines = [
        [source.label, layers[place], len(norms), *_percentiles(norms[:, place], (*_QUARTILES.values(), 99, 100))]
        for place in np.argsort(layers)
    ]
    return pd.DataFrame(lines, columns=NORM_COLUMNS)


def _by_layer(table: pa.Table, column: str, layers: int) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = table[column].combine_chunks().flatten().to_numpy().reshape(-1, layers)
    return values


def _percentiles(values: npt.NDArray[np.float64], asked: Iterable[int]) -> list[float]:
    return [float(np.percentile(values, one)) if len(values) else float("nan") for one in asked]


def _cosines_sentence(cosines: pd.DataFrame) -> str:
    """The range over many models."""
    last = cosines[cosines["layer"] == cosines.groupby("model")["layer"].transform("max")]
    own, shuffled = (last.loc[last["baseline"] == baseline, "mean"] for baseline in ("own", "shuffled"))
    return (
        f"At the last analysed input of a block a visual token's cosine with its own first state is {own.min():.2f} to "
        f"{own.max():.2f} by model, with that of another token of the image {shuffled.min():.2f} to "
        f"{shuffled.max():.2f}."
    )


def _cosine_sentence(label: object, found: pd.DataFrame) -> str:
    last = found[found["layer"] == found["layer"].max()].set_index("baseline")
    own, shuffled = last.loc["own"], last.loc["shuffled"]
    return (
        f"{markdown_text(str(label))}: at layer {own['layer']} a visual token's cosine with its own state at layer "
        f"{own['first_layer']} is {_interval(own)}, with that of another token of the image {_interval(shuffled)}."
    )


def _interval(line: pd.Series) -> str:
    return f"{line['mean']:.2f} ({line['low']:.2f}–{line['high']:.2f})"


def _draw_cosines(frame: pd.DataFrame, first: str, figure: Figure) -> None:
    grid = panels(figure, frame, "model")
    for axes, of_model in grid:
        for baseline, colour in zip(BASELINES, (COLOURS[0], "#555555"), strict=True):
            lines = of_model[of_model["baseline"] == baseline]
            style = {"label": _LABELS[baseline], **_STYLES[baseline]}
            draw_band(axes, lines["layer"], lines["mean"], lines["q25"], lines["q75"], colour, **style)
        set_layers(figure, axes, lines["layer"].tolist(), len(grid))
    label_figure(figure, "visual layer", f"cosine with layer {first}")


def _draw_norms(frame: pd.DataFrame, figure: Figure) -> None:
    grid = panels(figure, frame, "model")
    for axes, lines in grid:
        draw_band(axes, lines["layer"], lines["median"], lines["q25"], lines["q75"], COLOURS[0], marker="o")
        axes.plot(lines["layer"], lines["p99"], color="#555555", linewidth=0.8, linestyle=(0, (1, 1.2)))
        set_layers(figure, axes, lines["layer"].tolist(), len(grid))
    if frame["p99"].max() > 10 * max(frame["q25"].min(), 1e-30):
        grid[0][0].set_yscale("log")
    label_figure(figure, "visual layer", "norm of the state")
