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
CONTROLS = {"nearest": ("other-patch", "random", BASELINE), "deviation": ("other-deviation", BASELINE)}
"""By what a lens says: substitutes that change as much as it does if what the lens says plays no part."""
CONTROL_COLUMNS = ["target", "layer", "lens", "substitute", "control", "images", "passes", "more", "low", "high"]
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


def compare_controls(effects: pd.DataFrame) -> pd.DataFrame:
    """How much more each of `CONTROLS` moves the answer than what the lens says, on the same targets.

    Args:
        effects: lines as in `storage_layouts.interventions.EFFECTS`.

    Returns:
        columns `CONTROL_COLUMNS`: ``more`` in nats a token, with its 95 % interval over images, by target, layer (and
        all together), lens, substitute and control.

    """
    lines = []
    for said, controls in CONTROLS.items():
        for control in controls:
            pairs = _pairs(effects, said, control)
            for layer, of_layer in [(ALL_LAYERS, pairs), *pairs.groupby("layer")]:
                for (target, lens), found in of_layer.groupby(["target", "lens"], sort=False):
                    by_image = found.groupby("image_id")["more"]
                    bounds = clustered_mean(by_image.sum().to_numpy()[:, None], by_image.size().to_numpy()[:, None])
                    numbers = (float(bound[0]) for bound in bounds)
                    lines.append([target, layer, lens, said, control, len(by_image), len(found), *numbers])
    return pd.DataFrame(lines, columns=CONTROL_COLUMNS)


def _pairs(effects: pd.DataFrame, said: str, control: str) -> pd.DataFrame:
    """The passes with what a lens says, and how much ``more`` the control moves the answer on the same target."""
    pass_of = ["image_id", "target", "number", "layer", "lens"]
    own, other = (effects.loc[effects["substitute"] == name, [*pass_of, "divergence"]] for name in (said, control))
    if (other["lens"] == "").all():  # a control that asks no lens is one for all
        other = other.drop(columns="lens")
    on = [name for name in pass_of if name in other]
    pairs = own.merge(other, on=on, suffixes=("", "_control"))
    return pairs.assign(more=pairs["divergence_control"].astype(np.float64) - pairs["divergence"])


def _sums(lines: pd.DataFrame, images: npt.NDArray[np.int64]) -> np.ndarray:
    """The summed divergence of each image, [images, 1]."""
    return lines.groupby("image_id")["divergence"].sum().reindex(images, fill_value=0).to_numpy(np.float64)[:, None]


def _counts(lines: pd.DataFrame, images: npt.NDArray[np.int64]) -> np.ndarray:
    return lines.groupby("image_id").size().reindex(images, fill_value=0).to_numpy(np.int64)[:, None]
