"""How much an answer depends on attention to patches, by the window of layers in which it is blocked."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from lenscore.statistics.faithfulness import ALL_LAYERS
from lenscore.statistics.intervals import clustered_mean

BACKGROUND = "-background"
"""Ends the name of a control: as many patches of the background as a target has."""

_KEYS = ["target", "from", "layers", "layer"]
_MEASURES = ("divergence", "log_likelihood", "more")
COLUMNS = [*_KEYS, "images", "passes"]
COLUMNS += [column for name in _MEASURES for column in (name, f"{name}_low", f"{name}_high")]


def summarise_knockouts(knockouts: pd.DataFrame) -> pd.DataFrame:
    """Means by target, positions that do not attend to it, size and first layer of the window; columns `COLUMNS`.

    Args:
        knockouts: lines as in `storage_layouts.interventions.KNOCKOUTS`.

    Returns:
        ``divergence`` and ``log_likelihood`` in nats; ``more`` is by how much the divergence exceeds that of as many
        patches of the background of the same image, NaN without them. Intervals are of 95 %, over images. The lines of
        layer `ALL_LAYERS` are means over all windows of a size.

    """
    lines = []
    for key, of_size in _beside_background(knockouts).groupby(_KEYS[:-1], sort=False):
        layers: list[tuple[object, pd.DataFrame]] = [(ALL_LAYERS, of_size), *of_size.groupby("layer")]
        for layer, found in layers:
            lines.append([*key, layer, found["image_id"].nunique(), len(found), *_means(found)])
    return pd.DataFrame(lines, columns=COLUMNS)


def _beside_background(knockouts: pd.DataFrame) -> pd.DataFrame:
    """The lines with the column "more"."""
    same = ["image_id", "target", "number", *_KEYS[1:]]
    controls = knockouts[knockouts["target"].str.endswith(BACKGROUND)]
    controls = controls.assign(target=controls["target"].str.removesuffix(BACKGROUND))
    beside = knockouts.merge(controls[[*same, "divergence"]], on=same, how="left", suffixes=("", "_control"))
    return beside.assign(more=beside["divergence"] - beside["divergence_control"])


def _means(found: pd.DataFrame) -> Iterator[float]:
    """Mean, lower and upper bound of each measure."""
    for name in _MEASURES:
        by_image = found.dropna(subset=[name]).groupby("image_id")[name]
        sums, counts = by_image.sum().to_numpy(np.float64), np.asarray(by_image.size(), np.float64)
        yield from (float(bound[0]) for bound in clustered_mean(sums[:, None], counts[:, None]))
