"""The losses of all train runs of a report, in one figure."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lenscore.reports.parts.drawing import COLOURS, COLUMN_INCHES, PAGE_INCHES
from lenscore.reports.parts.layer_plots import legend_above
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import Plot, Section, Table
from lenscore.statistics.sources import Sources, run_labels
from lenscore.training.curves import SMOOTHED_OVER, smoothed
from storage_layouts.files import read_checked
from storage_layouts.run_identity import receipt_remedy
from storage_layouts.runs import RunFolder

TRAINING_COLUMNS = ["run", "steps", "planned", "first_loss", "last_loss", "lowest_loss", "tokens"]

_POINTS_DRAWN = 2000
_LINE_STYLES = ("-", "--", (0, (1, 1.2)))
_NO_SETTINGS = {"data", "images_per_shard", "steps_per_shard", "micro_batch_size", "trust_remote_code"}


def training_section(sources: Sources) -> Section | None:
    """The curves of all train runs; None without a finished step."""
    runs = [run for run in sources.others if run.stage == "train"]
    named = dict(zip(run_labels(runs), runs, strict=True))
    losses = {label: frame for label, run in named.items() if len(frame := read_losses(run))}
    if not losses:
        return None
    table = pd.DataFrame([_line(label, named[label], frame) for label, frame in losses.items()])
    settings = _differing({label: named[label].config for label in losses})
    table = table.set_axis(TRAINING_COLUMNS, axis=1).assign(**settings)
    drawn = pd.concat([_thinned(frame).assign(run=label) for label, frame in losses.items()], ignore_index=True)
    drawn = drawn[["run", "step", "loss", "smoothed"]]
    rows = -(-len(losses) // (2 if len(losses) <= 4 else 3))
    plot = Plot(
        "training-curves",
        f"Loss of the training by step, median of {SMOOTHED_OVER} steps.",
        (COLUMN_INCHES if len(losses) <= 4 else PAGE_INCHES, 2.1 + 0.17 * rows),
        partial(_draw, drawn),
        drawn,
    )
    caption = f"Losses in nats a token; the last and the lowest are medians of {SMOOTHED_OVER} steps."
    text = "Cross-entropy of the caption tokens before each update.\n"
    unfinished = [
        label for label in losses if table.set_index("run").loc[label, "steps"] < named[label].config["steps"]
    ]
    if unfinished:
        text += f"\nNot finished: {', '.join(map(markdown_text, unfinished))}.\n"
    final = Table("training", caption, table)
    return Section("Training", text, (final,), (plot,), (final,))


def read_losses(run: RunFolder) -> pd.DataFrame:
    """One line for each finished step of a train run: step, loss, gradient_norm, learning_rate, tokens.

    Raises CorruptError if a file is missing or changed.
    """
    spans = []
    for receipt in run.receipts():
        for name in (name for name in receipt.files if name.startswith("losses/")):
            data = read_checked(run.path / name, receipt.files[name], receipt_remedy(receipt.shard))
            spans.append(pd.DataFrame(json.loads(data)))
    columns = ["step", "loss", "gradient_norm", "learning_rate", "tokens"]
    losses = pd.concat([pd.DataFrame(columns=columns), *(span for span in spans if len(span))], ignore_index=True)
    return losses.astype({"step": int, "loss": float, "tokens": int}).sort_values("step", ignore_index=True)


def _smoothed(losses: pd.DataFrame) -> pd.Series:
    return losses["loss"].rolling(SMOOTHED_OVER, min_periods=1, center=True).median()


def _thinned(losses: pd.DataFrame) -> pd.DataFrame:
    """Every n-th step, to bound the points in a figure."""
    whole = losses.assign(smoothed=smoothed(losses["loss"]))
    return whole.iloc[:: -(-len(whole) // _POINTS_DRAWN)]


def _line(label: str, run: RunFolder, losses: pd.DataFrame) -> list[object]:
    last, lowest = losses["loss"].tail(SMOOTHED_OVER).median(), _smoothed(losses).min()
    return [label, len(losses), run.config["steps"], losses["loss"].iloc[0], last, lowest, int(losses["tokens"].sum())]


def _differing(configs: dict[str, Any]) -> dict[str, list[str]]:
    """The settings that differ between runs, with their values as text."""
    names = sorted({name for config in configs.values() for name in config} - _NO_SETTINGS)
    values = {name: [_shown(config.get(name)) for config in configs.values()] for name in names}
    return {name: texts for name, texts in values.items() if len(set(texts)) > 1}


def _shown(value: object) -> str:
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)


def _draw(frame: pd.DataFrame, figure: Figure) -> None:
    axes = figure.add_subplot()
    runs = list(frame.groupby("run", sort=False))
    for number, (label, lines) in enumerate(runs):
        colour, style = COLOURS[number % len(COLOURS)], _LINE_STYLES[number // len(COLOURS) % len(_LINE_STYLES)]
        if len(runs) == 1:
            axes.plot(lines["step"], lines["loss"], color=COLOURS[4], linewidth=0.4)
        axes.plot(lines["step"], lines["smoothed"], color=colour, linewidth=1, linestyle=style, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.grid(axis="y")
    legend_above(figure)
