"""From the evidence of lenses and layers to the probability that an image does not have a noun."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from storage_layouts.errors import InputError
from storage_layouts.fields import NUMBER, OBJECT, TEXT, check_fields, list_of
from storage_layouts.files import json_bytes, read_json

Floats = npt.NDArray[np.float64]
FOLDS = 5
FORMAT = 2


@dataclass(frozen=True)
class Calibration:
    """A logistic regression: the probability is 1 / (1 + exp(-(bias - weights · evidence))).

    Weights are not negative, so more evidence never makes a noun less likely to be in the image.

    Attributes:
        features: names of the evidence, such as "latent@8": 0 without evidence to 1.
        weights: of each.
        bias: of a noun without evidence.

    """

    features: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float

    @classmethod
    def fit(cls, features: Sequence[str], evidence: Floats, absent: npt.NDArray[np.bool_]) -> Calibration:
        """Fit to nouns ``[nouns, features]`` of which it is known whether the image lacks them.

        Minimises the log loss + half the squared length of the weights (scikit-learn's C = 1).
        """
        sign = np.where(absent, 1.0, -1.0)

        def loss(values: Floats) -> tuple[float, Floats]:
            margins = sign * (values[0] - evidence @ values[1:])
            pulled = -sign * expit(-margins)
            gradient = np.concatenate([[pulled.sum()], -(evidence.T @ pulled) + values[1:]])
            return float(np.logaddexp(0, -margins).sum() + values[1:] @ values[1:] / 2), gradient

        bounds = [(None, None), *[(0, None)] * len(features)]
        options = {"maxiter": 10_000, "ftol": 1e-14, "gtol": 1e-9}
        found = minimize(loss, np.zeros(1 + len(features)), jac=True, bounds=bounds, method="L-BFGS-B", options=options)
        return cls(tuple(features), tuple(map(float, found.x[1:])), float(found.x[0]))

    def probabilities(self, evidence: Floats) -> Floats:
        """The probability ``[nouns]`` that the image does not have the noun."""
        return expit(self.bias - evidence @ np.array(self.weights))

    def content(self, of: Mapping[str, object], images: Iterable[str]) -> bytes:
        """A file: `of` says what evidence it is for, and ``images`` are the hashes of those it was fitted on."""
        fields = {"features": list(self.features), "weights": list(self.weights), "bias": self.bias}
        return json_bytes(fields | {"format": FORMAT, "of": dict(of), "images": sorted(set(images))})

    @classmethod
    def read(cls, path: Path, of: Mapping[str, object], features: Sequence[str]) -> tuple[Calibration, frozenset[str]]:
        """A calibration and the hashes of the images that it was fitted on. InputError for other evidence than `of`."""
        if not path.is_file():
            raise InputError(f"--calibration {path}: no such file; expected calibration.json of lens unseen --truth")
        fields = read_json(path)
        kinds = {"features": list_of(TEXT), "weights": list_of(NUMBER), "bias": NUMBER, "of": OBJECT}
        if missing := [name for name in (*kinds, "images") if name not in fields]:
            raise InputError(
                f"--calibration {path}: is no calibration (it has no {missing[0]!r}); expected calibration.json of "
                "lens unseen --truth"
            )
        if fields.get("format") != FORMAT:
            raise InputError(
                f"--calibration {path}: has the format {fields.get('format')!r}, expected {FORMAT}; make it again with "
                "lens unseen --truth"
            )
        check_fields(path, fields, kinds | {"images": list_of(TEXT)})
        if len(fields["weights"]) != len(fields["features"]):
            raise InputError(
                f"--calibration {path}: has {len(fields['weights'])} weights of {len(fields['features'])} features; "
                "make it again with lens unseen --truth"
            )
        for name, value in of.items():
            if fields["of"].get(name) != value:
                raise InputError(
                    f"--calibration {path}: {name} is {fields['of'].get(name)!r}, but {value!r} here; expected the "
                    "same model and flags"
                )
        if fields["features"] != list(features):
            raise InputError(
                f"--calibration {path}: is of {', '.join(fields['features'])}; this run has {', '.join(features)}"
            )
        fitted = cls(tuple(fields["features"]), tuple(map(float, fields["weights"])), float(fields["bias"]))
        return fitted, frozenset(fields["images"])


def fold_of(sha256: str) -> int:
    """The fold of an image, by the hash of its bytes: copies of an image are in the same fold."""
    return int.from_bytes(hashlib.sha256(f"fold/{sha256}".encode()).digest()[:8], "little") % FOLDS


def cross_validated(
    features: Sequence[str],
    evidence: Floats,
    absent: npt.NDArray[np.bool_],
    folds: npt.NDArray[np.int64],
    known: npt.NDArray[np.bool_],
) -> Floats:
    """The probability of each noun by a calibration on the images of the other folds; NaN if these have one kind.

    Fitted to the nouns of which it is `known` whether they are absent.
    """
    found = np.full(len(absent), np.nan)
    for fold in np.unique(folds):
        mine, others = folds == fold, known & (folds != fold)
        if len(np.unique(absent[others])) == 2:
            fitted = Calibration.fit(features, evidence[others], absent[others])
            found[mine] = fitted.probabilities(evidence[mine])
    return found
