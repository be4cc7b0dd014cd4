"""The yes and no of one judge run by patch, from which all rates and differences are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lenscore.statistics.intervals import Estimate, Floats, Mean, difference

PATCH = ["image_id", "view", "row", "col"]
ASKED = ["control", "lens", "layer"]


@dataclass(frozen=True)
class Answers:
    """The answers of a judge run.

    Attributes:
        patches: (image_id, view, row, col) of each line.
        images: the hash of the image of each line.
        places: the column of each (control, lens, layer).
        yes: 1 yes, 0 no, NaN neither ``[patches, columns]``.

    """

    patches: tuple[tuple[int, ...], ...]
    images: tuple[str, ...]
    places: Mapping[tuple[str, str, int], int]
    yes: Floats

    @classmethod
    def of(cls, verdicts: pd.DataFrame, images: Mapping[int, str]) -> Answers:
        """Arrange verdicts with one line per question; ``images`` has the hash of each image."""
        yes = verdicts["outcome"].map({"yes": 1.0, "no": 0.0})  # NaN for other outcomes
        table = verdicts.assign(yes=yes).set_index([*PATCH, *ASKED])["yes"].unstack(ASKED)
        patches = tuple(tuple(map(int, patch)) for patch in table.index)
        places = {(str(asked[0]), str(asked[1]), int(asked[2])): i for i, asked in enumerate(table.columns.to_list())}
        return cls(patches, tuple(images[patch[0]] for patch in patches), places, table.to_numpy(float))

    def columns(self, lenses: Sequence[str], layers: Sequence[int], control: str = "") -> Floats:
        """The answers ``[patches, lenses * layers]``; NaN in columns without questions."""
        asked = [self.places.get((control, lens, layer)) for lens in lenses for layer in layers]
        nothing = np.full(len(self.patches), np.nan)
        return np.stack([nothing if place is None else self.yes[:, place] for place in asked], axis=1)

    def mean(self, lenses: Sequence[str], layers: Sequence[int], control: str = "") -> Mean:
        """The mean of the rates over layers and lenses, with equal weights."""
        return Mean.of(self.columns(lenses, layers, control), self.images)

    def lead(self, lens: str, other: str, layers: Sequence[int]) -> Estimate:
        """The difference between the rates of two lenses on the patches where both were judged."""
        one, two = both_answered(self.columns([lens], layers), self.columns([other], layers))
        return difference(one, self.images, two, self.images)


def both_answered(one: Floats, two: Floats) -> tuple[Floats, Floats]:
    """Both arrays with NaN wherever either has NaN."""
    missing = np.isnan(one) | np.isnan(two)
    return np.where(missing, np.nan, one), np.where(missing, np.nan, two)
