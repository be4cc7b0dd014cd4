"""Which contextual layers the LatentLens neighbours of each visual layer come from."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lenscore.judging.candidates import LATENT
from lenscore.reports.drawing import COLUMN_INCHES, draw_heat_map
from lenscore.reports.file_names import file_name
from lenscore.reports.sections import Plot, Section, Table
from lenscore.reports.sources import Sources
from storage_layouts.results import LensResults

ALIGNMENT_COLUMNS = ["model", "visual_layer", "contextual_layer", "count", "share", "nearest", "nearest_share"]


def alignment_section(sources: Sources) -> Section | None:
    """The layer alignment of all analyze runs with LatentLens; None without any."""
    counted = {source.label: count_alignment(source.results, source.label) for source in sources.analyses}
    counts = {label: frame for label, frame in counted.items() if frame is not None}
    if not counts:
        return None
    plots = [
        Plot(
            f"alignment-{file_name(label)}",
            f"{label}: contextual layers that the neighbours of each visual layer come from, in percent.",
            (COLUMN_INCHES, 0.9 + 0.24 * frame["visual_layer"].nunique()),
            partial(_draw_alignment, frame),
            frame,
        )
        for label, frame in counts.items()
    ]
    text = "\n".join(_first_layer_sentence(label, frame) for label, frame in counts.items())
    caption = "Neighbours of LatentLens by visual and contextual layer; shares within a visual layer."
    table = Table("alignment", caption, pd.concat(counts.values(), ignore_index=True))
    return Section("Layer alignment", text, (table,), tuple(plots))


def count_alignment(results: LensResults, model: str) -> pd.DataFrame | None:
    """Count neighbours by visual and contextual layer over all patches; None for a run without LatentLens.

    Columns ``ALIGNMENT_COLUMNS``: ``count`` of all kept neighbours, ``nearest`` of the first alone, and the shares
    (0..1) of each within its visual layer. Every pair of layers has a line, also where the count is 0.
    """
    if LATENT not in results.lenses:
        return None
    counts: Counter[tuple[int, int]] = Counter()
    nearest: Counter[tuple[int, int]] = Counter()
    for shard in results.run.require_plan().shards():
        table = results.results(lens=LATENT, image_ids=range(shard.first, shard.stop))
        neighbours = table["contextual_layers"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        layers = table["layer"].to_numpy()
        counts.update(_pairs(layers, neighbours))
        nearest.update(_pairs(layers, neighbours[:, :1]))
    contextual = sorted({other for _, other in counts})
    lines = []
    for layer in results.layers:
        in_all = sum(counts[layer, other] for other in contextual)
        first_in_all = sum(nearest[layer, other] for other in contextual)
        for other in contextual:
            count, first = counts[layer, other], nearest[layer, other]
            lines.append([model, layer, other, count, count / in_all, first, first / first_in_all])
    return pd.DataFrame(lines, columns=ALIGNMENT_COLUMNS)


def _pairs(layers: np.ndarray, neighbours: np.ndarray) -> Counter[tuple[int, int]]:
    """How often each (visual layer, contextual layer) occurs; -1 stands for no neighbour."""
    codes = (layers.astype(np.int64)[:, None] << 32) + neighbours
    found, counts = np.unique(codes[neighbours >= 0], return_counts=True)
    pairs = zip((found >> 32).tolist(), (found & 0xFFFFFFFF).tolist(), strict=True)
    return Counter(dict(zip(pairs, counts.tolist(), strict=True)))


def _draw_alignment(counts: pd.DataFrame, figure: Figure) -> None:
    """Each line of the map sums to 100 %."""
    shares = counts.pivot_table(index="visual_layer", columns="contextual_layer", values="share")
    axes = figure.add_subplot()
    drawn = draw_heat_map(axes, shares.to_numpy(), [str(i) for i in shares.index], [str(i) for i in shares.columns])
    axes.set_xlabel("contextual layer of the neighbours")
    axes.set_ylabel("visual layer")
    bar = figure.colorbar(drawn, format=PercentFormatter(1, decimals=0), pad=0.02)
    bar.outline.set_linewidth(0.4)


def _first_layer_sentence(label: str, counts: pd.DataFrame) -> str:
    first = counts[counts["visual_layer"] == counts["visual_layer"].min()]
    layer = int(first["visual_layer"].iloc[0])
    shares = ", ".join(
        f"layer {int(line.contextual_layer)} {100 * line.nearest_share:.0f} %" for line in first.itertuples()
    )
    # Without its own layer in the store, "all from later layers" would be no finding.
    caveat = "" if layer in set(first["contextual_layer"]) else f" (the store holds no contextual layer {layer})"
    return f"{label}: the nearest neighbours of visual layer {layer} come from {shares}{caveat}.\n"
