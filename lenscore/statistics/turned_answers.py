"""Dose curves of words that were erased or written, with 95 % intervals over images."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lenscore.interventions.names import ERASE
from lenscore.statistics.faithfulness import ALL_LAYERS
from lenscore.statistics.intervals import clustered_mean

KEYS = ["edit", "layer", "lens", "direction", "dose"]
MEANS = ["divergence", "log_likelihood", "word_probability"]
TURNED = "turned"
COLUMNS = [*KEYS, "images", "passes"]
COLUMNS += [name + bound for name in (*MEANS, TURNED) for bound in ("", "_low", "_high")] + ["could_turn"]


def summarise(edits: pd.DataFrame) -> pd.DataFrame:
    """Means by edit, layer (and all layers together), lens, direction and dose; columns `COLUMNS`.

    Args:
        edits: lines as in `storage_layouts.interventions.EDITS`.

    Returns:
        Means over passes with intervals over images. ``turned`` is the share of answers that lost the word (erase), of
        those that had it, or gained it (write), of those that did not; ``could_turn`` is their number.

    """
    had = edits["edit"] == ERASE  # who can lose a word has it, who can gain one does not
    edits = edits.assign(
        could=(edits["said_before"] == had).astype(np.float64),
        turned=((edits["said_before"] == had) & (edits["said"] != had)).astype(np.float64),
    )
    together = pd.concat([edits.assign(layer=ALL_LAYERS), edits])
    lines = []
    for key, found in together.groupby(KEYS, sort=False):
        by_image = found.groupby("image_id")
        counts = np.asarray(by_image.size(), np.float64)
        line = dict(zip(KEYS, key, strict=True)) | {"images": len(counts), "passes": len(found)}
        for name in MEANS:
            line |= _named(name, clustered_mean(by_image[name].sum().to_numpy(np.float64), counts))
        could = by_image["could"].sum().to_numpy(np.float64)
        share = clustered_mean(by_image["turned"].sum().to_numpy(np.float64), could, bounds=(0, 1))
        lines.append(line | _named(TURNED, share) | {"could_turn": int(could.sum())})
    return pd.DataFrame(lines, columns=COLUMNS)


def _named(name: str, found: tuple[np.ndarray, ...]) -> dict[str, float]:
    return {name + bound: float(value) for bound, value in zip(("", "_low", "_high"), found, strict=True)}
