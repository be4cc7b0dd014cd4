"""What the model's answer loses or gains if words are erased from states or written into them, by the dose."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lenscore.interventions.names import DIRECTIONS, ERASE, WRITE
from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import lens_style
from lenscore.reports.parts.effects import by_model, lines_of_runs
from lenscore.reports.parts.layer_plots import draw_band, label_figure, panels, panels_size, rate_axis
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import FINDINGS, Plot, Section, Table
from lenscore.statistics.faithfulness import ALL_LAYERS
from lenscore.statistics.sources import Sources
from lenscore.statistics.turned_answers import TURNED, summarise
from storage_layouts.interventions import read_edits

_TURNED = {ERASE: "lost", WRITE: "gained"}
_LINES = {"other-word": (0, (4, 1.5)), "random": (0, (1, 1.2)), "other-patches": (0, (4, 1.2, 1, 1.2))}
_CONTROLS = "dashed, another word; dotted, a random direction; dash-dotted, other patches"


def word_edits_section(sources: Sources) -> Section | None:
    """The words that all intervene runs erased or wrote; None without one."""
    edits = lines_of_runs(sources, read_edits)
    if not edits:
        return None
    means = by_model(edits, summarise)
    table = Table(
        "words-edited",
        "Answers that lose a word which is erased, or gain one which is written, and the divergence of the answer "
        "(nats a token), by dose, all layers together; 95 % intervals over images.",
        means,
        _shown(means),
    )
    plots = []
    of_layers = means[means["layer"] == ALL_LAYERS]
    for edit, turned in _TURNED.items():
        lines = of_layers[(of_layers["edit"] == edit) & (of_layers["could_turn"] > 0)]
        if len(lines):
            several = lines["model"].nunique() > 1
            lines = lines.assign(
                panel=[
                    f"{title_of(lens)}, {model}" if several else title_of(lens)
                    for model, lens in zip(lines["model"], lines["lens"], strict=True)
                ]
            )
            caption = f"Answers that have {turned} the word, by the dose with which it was {_past(edit)}; {_CONTROLS}."
            size = panels_size(lines["panel"].nunique())
            plots.append(Plot(f"words-{edit}", caption, size, partial(_draw, lines, turned), lines))
    text = (
        "Along the direction that a lens has for a word, states are moved until their projection is 0 (the word is "
        "erased) or that of the word itself (it is written); the dose is the share of that way. Controls move as far "
        "by another direction, or other patches. A word plays a part in the answer where its direction does more than "
        "the controls do.\n"
    )
    findings = [found for label in edits for edit in _TURNED if (found := _sentence(of_layers, label, edit))]
    shown = tuple(findings) if len(edits) <= FINDINGS else ()
    return Section("Words that are erased and written", text, (table,), tuple(plots), (table,), shown)


def _past(edit: str) -> str:
    return "erased" if edit == ERASE else "written"


def _shown(means: pd.DataFrame) -> pd.DataFrame:
    lines = [
        {
            "Model": line["model"],
            "Edit": line["edit"],
            "Lens": title_of(line["lens"]),
            "Direction": line["direction"],
            "Dose": f"{line['dose']:g}",
            "Divergence": f"{line['divergence']:.2g}",
            "Lost or gained": _share(line) if line["could_turn"] else "–",
            "Answers": str(line["could_turn"]),
        }
        for line in means[means["layer"] == ALL_LAYERS].to_dict("records")
    ]
    return pd.DataFrame(lines)


def _share(line: Mapping[Hashable, Any]) -> str:
    value, low, high = (100 * line[f"{TURNED}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.0f} % ({low:.0f} to {high:.0f})"


def _sentence(means: pd.DataFrame, label: str, edit: str) -> str | None:
    """What the lens whose direction turns most answers does at dose 1 (or the largest below), beside its controls."""
    mine = means[(means["model"] == label) & (means["edit"] == edit) & (means["could_turn"] > 0) & (means["dose"] > 0)]
    if not len(mine):
        return None
    doses = mine["dose"][mine["dose"] <= 1]
    mine = mine[mine["dose"] == (doses.max() if len(doses) else mine["dose"].min())]
    words = mine[mine["direction"] == "word"].sort_values(TURNED, ascending=False, kind="stable").to_dict("records")
    if not words:
        return None
    best = words[0]
    of_lens = mine[mine["lens"] == best["lens"]].to_dict("records")
    controls = ", ".join(f"{one['direction']} {_share(one)}" for one in of_lens if one["direction"] != "word")
    return (
        f"{markdown_text(label)}: {_share(best)} of {best['could_turn']} answers have {_TURNED[edit]} a word that was "
        f"{_past(edit)} along {markdown_text(title_of(best['lens']))}'s direction with dose {best['dose']:g}"
        + (f"; controls: {controls}." if controls else ".")
    )


def _draw(lines: pd.DataFrame, turned: str, figure: Figure) -> None:
    lenses = lines["lens"].unique().tolist()
    for axes, of_panel in panels(figure, lines, "panel"):
        for direction in DIRECTIONS:
            of_direction = of_panel[of_panel["direction"] == direction].sort_values("dose")
            if not len(of_direction):
                continue
            middle, low, high = (of_direction[f"{TURNED}{end}"].to_numpy(np.float64) for end in ("", "_low", "_high"))
            if direction == "word":
                colour, marker = lens_style(str(of_direction["lens"].iloc[0]), lenses)
                draw_band(axes, of_direction["dose"], middle, low, high, colour, marker=marker, label=direction)
            else:  # their intervals, which overlap, are in the table
                style: dict[str, Any] = {"linestyle": _LINES[direction], "label": direction}
                axes.plot(of_direction["dose"], middle, color="#555555", linewidth=1, **style)
        axes.set_xticks(sorted(of_panel["dose"].unique()))
        rate_axis(axes)
    label_figure(figure, "dose", f"answers that {turned} the word")
