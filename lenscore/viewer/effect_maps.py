"""Effects of the single patches of intervene runs as maps of the image page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lenscore.readings.image_reading import PatchMap
from lenscore.statistics.sources import run_labels
from storage_layouts.interventions import read_effects
from storage_layouts.runs import RunFolder

_SHOWN = {
    "nearest": "what the lens says",
    "deviation": "the mean state of the image with what sets apart what the lens says",
    "other-patch": "what it says of another patch",
    "mean-state": "the mean state of the image",
    "zero": "zeros",
}
"""Substitutes with a map, and what takes the place of the patch's state."""


class EffectMaps:
    """The maps of the images of an analyze run at its ``layers``, from intervene runs on it."""

    def __init__(self, runs: Sequence[RunFolder], layers: Sequence[int]) -> None:
        self._layers = {layer: place for place, layer in enumerate(layers)}
        self._by_image: list[tuple[str, str, dict[Any, pd.DataFrame]]] = []
        for number, (run, label) in enumerate(zip(runs, run_labels(runs), strict=True), start=1):
            effects = read_effects(run).to_pandas()
            of_patches = effects[(effects["target"] == "patch") & effects["substitute"].isin(list(_SHOWN))]
            name = "" if len(runs) == 1 else f"{number}-"
            title = "" if len(runs) == 1 else f", {label}"
            self._by_image.append((name, title, dict(iter(of_patches.groupby("image_id")))))

    def of_image(self, image_id: int, patches: int) -> tuple[PatchMap, ...]:
        """The maps of an image, which has so many patches."""
        maps = []
        for name, title, by_image in self._by_image:
            if image_id not in by_image:
                continue
            for (substitute, lens), lines in by_image[image_id].groupby(["substitute", "lens"], sort=False):
                values = np.full((len(self._layers), patches), np.nan, np.float32)
                values[lines["layer"].map(self._layers), lines["number"]] = lines["divergence"]
                explanation = (
                    f"How far the model's answer moves if {_SHOWN[str(substitute)]} takes the place of the patch's "
                    "state at this layer: KL divergence, nats a token of the answer."
                )
                maps.append(
                    PatchMap(f"{name}{substitute}", f"effect of {substitute}{title}", explanation, str(lens), values)
                )
        return tuple(maps)
