"""Which contextual layers the LatentLens neighbours of each visual layer come from."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from lenscore.judging.candidates import LATENT
from storage_layouts.results import LensResults

ALIGNMENT_COLUMNS = ["model", "visual_layer", "contextual_layer", "count", "share", "nearest", "nearest_share"]


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
