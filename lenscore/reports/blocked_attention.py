"""Where the answer needs attention to patches: blocked attention and attention maps of intervene runs, by layers."""

from __future__ import annotations

from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from lenscore.reports.parts.drawing import COLOURS, MARKERS
from lenscore.reports.parts.effects import by_model, draw_means, interval_text, lines_of_runs
from lenscore.reports.parts.layer_plots import label_figure, panels, panels_size, set_layers
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import FINDINGS, Plot, Section, Table
from lenscore.statistics.faithfulness import ALL_LAYERS
from lenscore.statistics.knockouts import BACKGROUND, summarise_knockouts
from lenscore.statistics.sources import Sources
from storage_layouts.interventions import read_knockouts

TARGET_TITLES = {
    "all": "all visual tokens",
    "object": "objects",
    "surrounding": "their surroundings",
    "border": "border of the image",
    "sink": "outlying norms",
    "patch": "single patches",
}
_FROM = {"answer": "the answer's positions", "later": "all tokens outside of the target"}


def knockouts_section(sources: Sources) -> Section | None:
    """The effects of blocked attention in all intervene runs; None without one."""
    known = lines_of_runs(sources, read_knockouts)
    if not known:
        return None
    means = by_model(known, summarise_knockouts)
    caption = "Divergence of the model's answer (nats a token) if attention to patches is blocked in a window of layers"
    plots = []
    for (source, layers), lines in means[means["layer"] != ALL_LAYERS].groupby(["from", "layers"], sort=False):
        if lines["layer"].nunique() > 1:
            what = (
                f"{caption}: {layers} from this one on, from {_FROM[str(source)]}; dotted, as many background patches."
            )
            lines = lines.astype({"layer": int})
            size = panels_size(lines["model"].nunique(), 0.9)
            plots.append(Plot(f"knockouts-{source}-{layers}", what, size, partial(_draw, lines), lines))
    table = Table("knockouts", f"{caption}; 95 % intervals over images.", means, _shown(means))
    text = (
        "Attention to the patches of a target is blocked, in windows of layers, from the positions where the answer is "
        "predicted, or from all tokens outside of the target. More is by how much the answer moves further than with "
        "as many patches of the background of the same image, which no object touches.\n"
    )
    findings = tuple(found for label in known if (found := _sentence(label, means)))
    few = len(known) <= FINDINGS
    return Section("Blocked attention", text, (table,), tuple(plots), (table,), findings if few else ())


def _shown(means: pd.DataFrame) -> pd.DataFrame:
    lines = [
        {
            "Model": line["model"],
            "Target": line["target"],
            "From": line["from"],
            "Layers": str(line["layers"]),
            "Images": str(line["images"]),
            "Divergence": interval_text(line, "divergence"),
            "More": interval_text(line, "more"),
        }
        for line in means[means["layer"] == ALL_LAYERS].to_dict("records")
    ]
    return pd.DataFrame(lines)


def _sentence(label: str, means: pd.DataFrame) -> str | None:
    """Objects beside the background, in the largest window."""
    lines = means[(means["model"] == label) & (means["target"] == "object") & (means["layer"] == ALL_LAYERS)]
    if not len(lines):
        return None
    line = lines.sort_values("layers", kind="stable").to_dict("records")[-1]
    text = f"{markdown_text(label)}: if {_FROM[line['from']]} do not attend to the patches of an object in "
    text += f"{line['layers']} layers, the answer moves by {interval_text(line, 'divergence')} nats a token"
    if line["more"] == line["more"]:
        text += f", {interval_text(line, 'more')} more than with as many patches of the background"
    return f"{text}."


def _draw(lines: pd.DataFrame, figure: Figure) -> None:
    grid = panels(figure, lines, "model")
    for axes, of_model in grid:
        for place, (target, name) in enumerate(TARGET_TITLES.items()):
            own = of_model[of_model["target"] == target]
            if len(own):
                draw_means(axes, own, COLOURS[place], marker=MARKERS[place], label=name)
                control = of_model[of_model["target"] == f"{target}{BACKGROUND}"]
                dotted = (0, (1, 1.2))
                axes.plot(
                    control["layer"], control["divergence"], color=COLOURS[place], linewidth=0.8, linestyle=dotted
                )
        axes.set_yscale("log")
        set_layers(figure, axes, sorted(of_model["layer"].unique().tolist()), len(grid))
    label_figure(figure, "first layer without attention", "divergence, nats a token")
