"""Rates in judge outputs of latentlens."""

from __future__ import annotations

import pandas as pd

from lenscore.readings.lens_titles import title_of
from lenscore.reports.sections import Section, Table
from lenscore.statistics.intervals import Rate, share_text
from lenscore.statistics.sources import Sources

JUDGE_OUTPUT_COLUMNS = ["model", "judge", "lens", "layer", "rate", "low", "high", "n", "unparsable", "file"]


def judge_outputs_section(sources: Sources) -> Section | None:
    """The rates by layer, and by model and lens over all layers; None without judge outputs."""
    if not sources.judge_outputs:
        return None
    outputs = pd.DataFrame([vars(output) for output in sources.judge_outputs])
    rates = [Rate.of(output.yes, output.n) for output in sources.judge_outputs]
    outputs[["rate", "low", "high"]] = [rate[2:] for rate in rates]
    frame = outputs.astype({"layer": "Int64", "file": str})[JUDGE_OUTPUT_COLUMNS]
    pooled = outputs.groupby(["model", "judge", "lens"], sort=False, as_index=False).agg(
        layers=("lens", "size"), rate=("yes", "sum"), n=("n", "sum"), unparsable=("unparsable", "sum")
    )
    pooled["rate"] /= pooled["n"]
    caption = "Share of patches that the judge of the files called interpretable, 95 % intervals after Wilson."
    by_layer = Table("judge-outputs", caption, frame, _shown(frame))
    over_layers = (
        "The same over all layers of the files, without intervals: the patches of two layers are of the same images."
    )
    brief = Table("judge-outputs-means", over_layers, pooled, _shown(pooled))
    text = (
        "Counted anew from the replies in judge outputs of latentlens: a patch is interpretable if any of its three "
        "lists of words is not empty. Replies that could not be parsed, and enter no rate: "
        f"{int(frame['unparsable'].sum())} (the files count them as not interpretable).\n"
    )
    return Section("Rates in judge outputs of latentlens", text, (by_layer, brief), brief=(brief,))


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    where = "layer" if "layer" in frame else "layers"
    return pd.DataFrame(
        {
            "model": frame["model"],
            "judge": frame["judge"].replace("", "not said"),
            "lens": frame["lens"].map(title_of),
            where: ["not said" if pd.isna(layer) else str(layer) for layer in frame[where]],
            "interpretable": [
                share_text(*interval) for interval in frame.reindex(columns=["rate", "low", "high"]).to_numpy(float)
            ],
            "n": frame["n"].astype(str),
            "unparsable": frame["unparsable"].astype(str),
        }
    )
