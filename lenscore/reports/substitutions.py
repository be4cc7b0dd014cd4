"""What the model's answer loses if the states of visual tokens are what lenses say: the effects of intervene runs."""

from __future__ import annotations

from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import label_text, lens_style
from lenscore.reports.parts.effects import by_model, draw_means, interval_text, lines_of_runs
from lenscore.reports.parts.layer_plots import label_figure, panels, panels_size, set_layers
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import FINDINGS, Plot, Section, Table
from lenscore.statistics.faithfulness import ALL_LAYERS, BASELINE, CONTROLS, compare_controls, summarise
from lenscore.statistics.sources import Sources
from storage_layouts.interventions import read_effects

TARGET_TITLES = {"all": "all visual tokens", "object": "the patches of an object", "patch": "a single patch"}
_BASELINE_COLOUR = "#555555"
_SAID = {
    "nearest": ("substitutions", "best candidates"),
    "deviation": ("deviations", "best candidates, the mean state kept,"),
}
"""What a lens says that has controls: by substitute, the name of its figures and words for findings."""


def substitutions_section(sources: Sources) -> Section | None:
    """The effects of all intervene runs; None without one."""
    effects = lines_of_runs(sources, read_effects)
    if not effects:
        return None
    means, controls = by_model(effects, summarise), by_model(effects, compare_controls)
    caption = "Divergence of the model's answer (nats a token) if other states take the place of those of visual tokens"
    tables = (
        Table("substitutions", f"{caption}; 95 % intervals over images.", means, _shown(means)),
        Table(
            "substitutions-controls",
            "How much more the answer moves by a control than by what the lens says, on the same targets (nats a "
            "token); 95 % intervals over images.",
            controls,
        ),
    )
    plots = []
    for target, name in TARGET_TITLES.items():
        lines = means[(means["target"] == target) & (means["layer"] != ALL_LAYERS)].astype({"layer": int})
        for said, (figure, _) in _SAID.items():
            some = lines[lines["substitute"].isin([said, CONTROLS[said][0], BASELINE])]
            if not (some["substitute"] == said).any():
                continue
            what = caption.replace("those of visual tokens", f"that of {name}" if target == "patch" else name)
            style = f" ({said}); dotted, what the lens says of another patch; grey, the mean state of the image."
            size = panels_size(some["model"].nunique())
            plots.append(Plot(f"{figure}-{target}", what + style, size, partial(_draw, some, said), some))
    text = (
        "A test without a judge: at a layer, the states of visual tokens are replaced by what a lens says they are, "
        "and the answer is compared with that of the unchanged pass. Recovered is the share of the effect of the mean "
        "state that a substitution avoids. A lens is faithful where what it says changes less than the controls do.\n"
    )
    findings = [found for label in effects for said in _SAID if (found := _sentence(label, said, means, controls))]
    return Section(
        "What the model uses",
        text,
        tables,
        tuple(plots),
        tables[:1],
        tuple(findings) if len(effects) <= FINDINGS else (),
    )


def _shown(means: pd.DataFrame) -> pd.DataFrame:
    lines = [
        {
            "Model": line["model"],
            "Replaced": TARGET_TITLES.get(target, target).removeprefix("the "),
            "By": " ".join(filter(None, (title_of(line["lens"]) if line["lens"] else "", line["substitute"]))),
            "Images": str(line["images"]),
            "Divergence": interval_text(line, "divergence"),
            "Recovered": interval_text(line, "recovered"),
        }
        for target in dict.fromkeys((*TARGET_TITLES, *means["target"]))
        for line in means[(means["layer"] == ALL_LAYERS) & (means["target"] == target)].to_dict("records")
    ]
    return pd.DataFrame(lines)


def _sentence(label: str, said: str, means: pd.DataFrame, controls: pd.DataFrame) -> str | None:
    """The lens that changes the answer least, of the largest target of a run, beside its controls."""
    of_run = means[(means["model"] == label) & (means["layer"] == ALL_LAYERS)]
    target = next((name for name in TARGET_TITLES if (of_run["target"] == name).any()), "")
    of_target = of_run[of_run["target"] == target]
    of_lenses = of_target[of_target["substitute"] == said].sort_values("divergence", kind="stable")
    if of_lenses.empty:
        return None
    best = of_lenses.to_dict("records")[0]
    text = f"{markdown_text(label)}: with {markdown_text(title_of(best['lens']))}'s {_SAID[said][1]} in the place of "
    text += f"{TARGET_TITLES[target]}, the answer moves by {interval_text(best, 'divergence')} nats a token"
    against = [
        f"{line['control']} {line['more']:+.2g} ({line['low']:+.2g} to {line['high']:+.2g})"
        for line in controls[
            (controls["model"] == label)
            & (controls["target"] == target)
            & (controls["layer"] == ALL_LAYERS)
            & (controls["lens"] == best["lens"])
            & (controls["substitute"] == said)
        ].to_dict("records")
    ]
    text += f"; controls move it further by: {', '.join(against)}" if against else ""
    return f"{text}."


def _draw(lines: pd.DataFrame, said: str, figure: Figure) -> None:
    grid = panels(figure, lines, "model")
    for axes, of_model in grid:
        lenses = of_model.loc[of_model["lens"] != "", "lens"].unique().tolist()
        for lens in lenses:
            colour, marker = lens_style(lens, lenses)
            own = of_model[(of_model["lens"] == lens) & (of_model["substitute"] == said)]
            style = {"marker": marker, "label": label_text(title_of(lens))}
            draw_means(axes, own, colour, **style)
            other = of_model[(of_model["lens"] == lens) & (of_model["substitute"] == CONTROLS[said][0])]
            axes.plot(other["layer"], other["divergence"], color=colour, linewidth=0.8, linestyle=(0, (1, 1.2)))
        mean = of_model[of_model["substitute"] == BASELINE]
        if len(mean):
            draw_means(axes, mean, _BASELINE_COLOUR, label="mean state")
        axes.set_yscale("log")
        set_layers(figure, axes, sorted(of_model["layer"].unique().tolist()), len(grid))
    label_figure(figure, "visual layer", "divergence, nats a token")
