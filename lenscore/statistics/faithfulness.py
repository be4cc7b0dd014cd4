"""How much of a model's answer survives substitutions, with 95 % intervals over images."""

from __future__ import annotations

from math import nan

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenscore.statistics.intervals import clustered_mean

BASELINE = "mean-state"
"""The substitute that removes what sets a visual token apart from its image."""

ALL_LAYERS = "all"
KEYS = ["target", "layer", "lens", "substitute"]
COLUMNS = [*KEYS, "images", "passes", "divergence", "divergence_low", "divergence_high"]
COLUMNS += ["recovered", "recovered_low", "recovered_high", "next_divergence", "log_likelihood", "word_probability"]


def summarise(effects: pd.DataFrame) -> pd.DataFrame:
    """Means by target, layer (and all layers together), lens and substitute; columns `COLUMNS`.

    Args:
        effects: lines as in `storage_layouts.interventions.EFFECTS`.

    Returns:
        ``divergence``, ``next_divergence`` and ``log_likelihood`` in nats; ``recovered`` is the share of the divergence
        of `BASELINE` on the same targets that the substitution avoids, 1 - sum / sum: 1 for one that changes nothing,
        below 0 for one that changes more. NaN without the baseline.

    """
    lines = []
    for target, of_target in effects.groupby("target", sort=False):
        layers: list[tuple[object, pd.DataFrame]] = [(ALL_LAYERS, of_target), *of_target.groupby("layer")]
        for layer, mine in layers:
            images = np.unique(mine["image_id"])
            baseline = _sums(mine[mine["substitute"] == BASELINE], images)
            for (lens, name), found in mine.groupby(["lens", "substitute"], sort=False):
                sums, counts = _sums(found, images), _counts(found, images)
                left = [float(bound[0]) for bound in clustered_mean(sums, baseline)] if baseline.any() else [nan] * 3
                lines.append(
                    [
                        *(target, layer, lens, name, len(images), len(found)),
                        *(float(bound[0]) for bound in clustered_mean(sums, counts)),
                        *(1 - left[0], 1 - left[2], 1 - left[1]),
                        *(found[column].mean() for column in COLUMNS[-3:]),
                    ]
                )
    return pd.DataFrame(lines, columns=COLUMNS)


def _sums(lines: pd.DataFrame, images: npt.NDArray[np.int64]) -> np.ndarray:
    """The summed divergence of each image, [images, 1]."""
    return lines.groupby("image_id")["divergence"].sum().reindex(images, fill_value=0).to_numpy(np.float64)[:, None]


def _counts(lines: pd.DataFrame, images: npt.NDArray[np.int64]) -> np.ndarray:
    return lines.groupby("image_id").size().reindex(images, fill_value=0).to_numpy(np.int64)[:, None]
