"""Rates that other people's judge outputs hold, beside nothing of ours: they are of other runs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lenscore.readings.lens_titles import title_of
from lenscore.reports.sections import Section, Table
from lenscore.statistics.intervals import Rate
from lenscore.statistics.judge_output_files import JudgeOutput
from lenscore.statistics.sources import Sources

JUDGE_OUTPUT_COLUMNS = ["model", "judge", "lens", "layer", "rate", "low", "high", "n", "unparsable", "file"]


def judge_outputs_section(sources: Sources) -> Section | None:
    """The rates by layer, and by model and lens over all layers; None without judge outputs."""
    if not sources.judge_outputs:
        return None
    lines = [_line(output) for output in sources.judge_outputs]
    frame = pd.DataFrame(lines, columns=JUDGE_OUTPUT_COLUMNS).astype({"layer": "Int64"})
    caption = "Share of patches that the judge of the files called interpretable, 95 % intervals after Wilson."
    by_layer = Table("judge-outputs", caption, frame, _shown(frame))
    pooled = (
        "The same over all layers of the files, without intervals: the patches of two layers are of the same images."
    )
    brief = Table("judge-outputs-means", pooled, *_pooled(sources.judge_outputs))
    text = (
        "Counted anew from the replies in judge outputs of latentlens: a patch is interpretable if any of its three "
        "lists of words is not empty. Replies that could not be parsed, and enter no rate: "
        f"{int(frame['unparsable'].sum())} (the files count them as not interpretable).\n"
    )
    return Section("Rates in judge outputs of latentlens", text, (by_layer, brief), brief=(brief,))


def _line(output: JudgeOutput) -> list[object]:
    rate = Rate.of(output.yes, output.n)
    head = [output.model, output.judge, output.lens, output.layer]
    return [*head, rate.rate, rate.low, rate.high, output.n, output.unparsable, str(output.file)]


def _pooled(outputs: Sequence[JudgeOutput]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All layers of a model, judge and lens together."""
    groups: dict[tuple[str, str, str], list[JudgeOutput]] = {}
    for output in outputs:
        groups.setdefault((output.model, output.judge, output.lens), []).append(output)
    lines = []
    for key, of in groups.items():
        rate = Rate.of(sum(one.yes for one in of), sum(one.n for one in of))
        lines.append([*key, len(of), rate.rate, rate.n, sum(one.unparsable for one in of)])
    columns = ["model", "judge", "lens", "layers", "rate", "n", "unparsable"]
    frame = pd.DataFrame(lines, columns=columns)
    return frame, _shown(frame)


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    shares = [f"{100 * rate:.0f} %" if rate == rate else "–" for rate in frame["rate"].to_list()]
    if "low" in frame:
        ends = zip(frame["low"].to_list(), frame["high"].to_list(), strict=True)
        shares = [
            f"{share} ({100 * low:.0f}–{100 * high:.0f})" if low == low else share
            for share, (low, high) in zip(shares, ends, strict=True)
        ]
    lenses = frame["lens"].map(lambda lens: title_of(lens))
    where = "layer" if "layer" in frame else "layers"
    layers = ["not said" if pd.isna(layer) else str(layer) for layer in frame[where]]
    return pd.DataFrame(
        {
            "model": frame["model"],
            "judge": frame["judge"].replace("", "not said"),
            "lens": lenses,
            where: layers,
            "interpretable": shares,
            "n": frame["n"].astype(str),
            "unparsable": frame["unparsable"].astype(str),
        }
    )
