"""Whether patches near the edge of their object say more than those inside, where a truth file knows the objects.

The distance of a patch is the mean, over the part of it that lies in the object, of the distance to the object's edge,
in sides of the patch. A patch beside or across an edge that is straight along its side has at most a half.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import lens_style
from lenscore.reports.parts.layer_plots import draw_rates, label_figure, lens_handles, panels, panels_size, rate_axis
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import FINDINGS, Plot, Section, Table
from lenscore.statistics.intervals import Mean, difference
from lenscore.statistics.patch_answers import PATCH
from lenscore.statistics.sources import JudgeSource, Sources
from lenscore.statistics.summary import OTHER_PATCH, left_out_of_means
from storage_layouts.counts import counted

EDGE_COLUMNS = ["model", "judge", "lens", "from", "to", "patches", "images", "rate", "low", "high", "control"]
BINS = (0.0, 0.5, 1.0, 2.0, 4.0, float("inf"))
"""Bounds of the distances that are counted together."""
_NEAR = 0.5
"""Sides of a patch that count as the edge in the findings."""


def edge_section(sources: Sources) -> Section | None:
    """Rates by distance from the object's edge; None where no judge run knows distances."""
    known = [judge for source in sources.analyses for judge in source.judges if has_distances(judge)]
    if not known:
        return None
    frame = pd.concat([rates_by_distance(judge) for judge in known], ignore_index=True)
    few = len(known) <= FINDINGS
    caption = "Patches named rightly by distance from the edge of their object in sides of a patch, mean over layers"
    return Section(
        "Distance from the object's edge",
        _text(known),
        (table := Table("edge-distances", f"{caption}; 95 % intervals over images.", frame, _shown(frame)),),
        (Plot("edge-distances", f"{caption}.", panels_size(len(known)), partial(_draw, frame), frame),),
        brief=(table,) if few else (),
        findings=tuple(map(_finding, known)) if few else (),
    )


def has_distances(judge: JudgeSource) -> bool:
    """Whether the run was judged by objects whose places are known."""
    return bool(judge.verdicts["edge_distance"].notna().any())


def rates_by_distance(judge: JudgeSource) -> pd.DataFrame:
    """Rates by lens and bin of distances, columns `EDGE_COLUMNS`; from and to are NaN for objects without an edge.

    Bins without a patch are left out.
    """
    answers, summary = judge.summary.answers, judge.summary
    distances = _distances(judge)
    bins = [((first, last), (distances >= first) & (distances < last)) for first, last in pairwise(BINS)]
    bins.append(((np.nan, np.nan), np.isnan(distances)))
    bins = [(bounds, chosen) for bounds, chosen in bins if chosen.any()]
    lines = []
    for lens in summary.lenses:
        for bounds, chosen in bins:
            images = [answers.images[place] for place in np.flatnonzero(chosen)]
            own, other = (
                Mean.of(answers.columns([lens], summary.mean_layers, control)[chosen], images).as_share()
                for control in ("", OTHER_PATCH)
            )
            numbers = [own.patches, own.images, own.value, own.low, own.high, other.value]
            lines.append([summary.model, summary.judge, lens, *bounds, *numbers])
    return pd.DataFrame(lines, columns=EDGE_COLUMNS)


def _distances(judge: JudgeSource) -> npt.NDArray[np.float64]:
    """Of each patch of the answers, NaN where it is not known."""
    by_patch = judge.verdicts.drop_duplicates(PATCH).set_index(PATCH)["edge_distance"].astype(np.float64)
    patches = pd.MultiIndex.from_tuples(judge.summary.answers.patches, names=PATCH)
    return np.asarray(by_patch.reindex(patches), np.float64)


def _text(known: Sequence[JudgeSource]) -> str:
    text = (
        "The distance of a patch is the mean, over the part of it that the object covers, of the distance to the "
        "object's edge, in sides of the patch; beside or across a straight edge it is at most 0.5. Where the image "
        "ends is no edge. The control are words of the same lens from a patch of another image.\n"
    )
    for judge in known:
        counts = judge.run.require_plan().facts["truth"]
        covered, seen, images = (counts[name] for name in ("patches_covered", "patches_seen", "images_seen"))
        text += (
            f"\n{markdown_text(judge.summary.model)}: one object covers enough of {covered:,} of {seen:,} patches of "
            f"{counted(images, 'image')}; the others are not judged. {counted(judge.summary.judged, 'patch')} were "
            "sampled.\n"
        )
    if left_out := left_out_of_means(judge.summary for judge in known):
        text += f"\n{left_out}\n"
    return text


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for line in frame.to_dict("records"):
        rate, control = (f"{100 * line[name]:.0f} %" if line["patches"] else "–" for name in ("rate", "control"))
        interval = f" ({100 * line['low']:.0f}–{100 * line['high']:.0f})" if line["patches"] else ""
        control = "–" if line["control"] != line["control"] else control
        counts = [f"{line['patches']:,}", f"{line['images']:,}"]
        lines.append(
            [line["model"], title_of(line["lens"]), _bin(line["from"], line["to"]), *counts, rate + interval, control]
        )
    return pd.DataFrame(lines, columns=["Model", "Lens", "Distance", "Patches", "Images", "Right", "Control"])


def _bin(first: float, last: float) -> str:
    if first != first:
        return "no edge"
    return f"{first:g}–{last:g}" if last < np.inf else f"{first:g} or more"


def _finding(judge: JudgeSource) -> str:
    """The best lens near the edge and inside."""
    summary, answers = judge.summary, judge.summary.answers
    lens = summary.ranked[0][0] if summary.ranked else summary.lenses[0]
    values, distances = answers.columns([lens], summary.mean_layers), _distances(judge)
    sides = []
    for chosen in (distances < _NEAR, distances >= _NEAR):
        sides.append((values[chosen], [answers.images[place] for place in np.flatnonzero(chosen)]))
    near, inside = (Mean.of(*side).as_share() for side in sides)
    change = difference(*sides[0], *sides[1])
    return (
        f"{markdown_text(summary.model)}: {markdown_text(title_of(lens))} is right on {near.shown} of {near.patches:,} "
        f"patches at the edge of their object (less than {_NEAR:g} patches from it), and on {inside.shown} of "
        f"{inside.patches:,} inside: {change.shown_difference} points."
    )


def _draw(frame: pd.DataFrame, figure: Figure) -> None:
    lenses = list(frame["lens"].unique())
    bounds = frame[["from", "to"]].drop_duplicates().sort_values("from", na_position="last")
    bins = [_bin(*pair) for pair in bounds.itertuples(index=False)]
    grid = panels(figure, frame, "model")
    for axes, of_model in grid:
        for turn, lens in enumerate(lenses):
            lines = of_model[of_model["lens"] == lens]
            places = [bins.index(_bin(*pair)) for pair in lines[["from", "to"]].itertuples(index=False)]
            at = np.array(places) + 0.1 * (turn - (len(lenses) - 1) / 2)
            has_edge = lines["from"].notna().to_numpy()
            for chosen, linestyle in ((has_edge, "-"), (~has_edge, "none")):
                rates = lines.loc[chosen, ["rate", "low", "high"]].to_numpy().tolist()
                draw_rates(axes, at[chosen], rates, *lens_style(lens, lenses), linestyle=linestyle)
        axes.set_xticks(range(len(bins)), [name.replace(" or more", "+") for name in bins])
        axes.set_ylim(bottom=0)
        rate_axis(axes)
    lens_handles(grid[0][0], lenses)
    label_figure(figure, "distance from the object's edge, in patches", "patches named rightly")
