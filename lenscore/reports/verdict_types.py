"""The kinds of fitting words, if a judge names them: concrete (on the patch), abstract, or global (elsewhere)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import COLUMN_INCHES
from lenscore.reports.parts.layer_plots import GREY, draw_stacks, label_figure, set_bars, stacked_panels
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import Plot, Section, Table
from lenscore.statistics.file_names import file_name
from lenscore.statistics.intervals import clustered_mean
from lenscore.statistics.sources import JudgeSource, Sources

KINDS = ("concrete", "abstract", "global", "no")
VERDICT_TYPE_COLUMNS = ["model", "lens", "layer", "kind", "n", "count", "share", "low", "high"]

_SHOWN_MODELS = 2
_UNTOLD = "yes"
_COLOURS = {"concrete": "#0072b2", "abstract": "#e69f00", "global": "#009e73", _UNTOLD: "#999999", "no": GREY}


def verdict_types_section(sources: Sources) -> Section | None:
    """The kinds of verdicts in all judge runs; None if no judge distinguishes them."""
    judges = [judge for _, judge in sources.judged]
    counted = {judge.summary.model: frame for judge in judges if (frame := count_types(judge)) is not None}
    if not counted:
        return None
    plots = [
        Plot(
            f"verdict-types-{file_name(model)}",
            f"{model}: patches by the strongest way in which one of their words fits.",
            (COLUMN_INCHES, 0.9 + 1.15 * frame["lens"].nunique()),
            partial(_draw, frame),
            frame,
        )
        for model, frame in counted.items()
    ]
    silent = [markdown_text(judge.summary.model) for judge in judges if judge.summary.model not in counted]
    text = (
        "Each judged patch counts once: concrete if a word names what is seen in the box, else abstract if one fits as "
        "an idea, else global if one names what is elsewhere in the image, else no.\n"
    )
    if silent:
        text += f"\nNo kinds are told apart by the judge of {', '.join(silent)}.\n"
    frame = pd.concat(counted.values(), ignore_index=True)
    table = Table("verdict-types", "Judged patches by how their words fit, with 95 % intervals over images.", frame)
    details = tuple(plots) if len(plots) > _SHOWN_MODELS else ()
    return Section("How the words fit", text, (table,), tuple(plots), details=details)


def count_types(judge: JudgeSource) -> pd.DataFrame | None:
    """Count the verdicts on the lenses' own words by kind, columns ``VERDICT_TYPE_COLUMNS``; None without kinds.

    Only yes and no count. A yes without a kind (of one judge of a panel) has the kind "yes".
    """
    own = judge.verdicts[(judge.verdicts["control"] == "") & judge.verdicts["outcome"].isin(["yes", "no"])]
    kinds = [_kind(*line) for line in zip(own["outcome"], own["reply"], own["candidates"], strict=True)]
    if not set(kinds) & {"concrete", "abstract", "global"}:
        return None
    shown = [*KINDS[:3], *([_UNTOLD] if _UNTOLD in kinds else []), "no"]
    counts = own.assign(kind=kinds).groupby(["lens", "layer", "kind", "image_id"]).size()
    by_image = counts.unstack("image_id", fill_value=0)
    lines = []
    for lens in judge.summary.lenses:
        for layer in judge.summary.layers:
            asked = [(lens, layer, kind) for kind in shown]
            found = by_image.reindex(asked, fill_value=0).to_numpy().T  # [images, kinds]
            answered = np.broadcast_to(found.sum(axis=1, keepdims=True), found.shape)
            rates = zip(*clustered_mean(found, answered, (0, 1)), strict=True)
            for kind, count, rate in zip(shown, found.sum(axis=0).tolist(), rates, strict=True):
                lines.append([judge.summary.model, lens, layer, kind, int(found.sum()), count, *map(float, rate)])
    return pd.DataFrame(lines, columns=VERDICT_TYPE_COLUMNS)


def _kind(outcome: str, reply: str, candidates: tuple[str, ...]) -> str:
    if outcome == "no":
        return "no"
    if not reply:
        return _UNTOLD
    from lenscore.judging.replies import read_reply  # loads Pydantic, which takes long

    read = read_reply(reply, candidates)
    lists = zip(KINDS, (read.concrete, read.abstract, read.global_), strict=False)
    return next((kind for kind, words in lists if words), _UNTOLD)


def _draw(frame: pd.DataFrame, figure: Figure) -> None:
    for axes, of_lens in stacked_panels(figure, frame, "lens", title_of):
        shares = of_lens.pivot_table(index="layer", columns="kind", values="share", dropna=False)
        draw_stacks(axes, {kind: shares[kind].to_numpy() for kind in _COLOURS if kind in shares}, _COLOURS)
        set_bars(axes, list(shares.index))
    label_figure(figure, "visual layer", "share of the judged patches")
