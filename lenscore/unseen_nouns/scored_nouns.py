"""Nouns with their scores, and how well these and others find the nouns that images do not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenscore.judging.patches import ImagePatches
from lenscore.readings.lens_titles import title_of
from lenscore.statistics.detection import (
    Measure,
    area_under_roc,
    average_precision,
    brier_score,
    over_images,
    precision,
    precision_recall_curve,
    recall,
    reliability,
)
from lenscore.unseen_nouns.calibration import Calibration, cross_validated, fold_of
from lenscore.unseen_nouns.evidence import Evidence
from lenscore.unseen_nouns.said_nouns import SaidNoun

Floats = npt.NDArray[np.float64]
MEASURES: dict[str, Measure] = {
    "auroc": area_under_roc,
    "average_precision": average_precision,
    "precision": precision,
    "recall": recall,
    "brier": brier_score,
}
ALL, TEXTS = "all nouns", "nouns of the texts"
TOGETHER, CONFIDENCE, OWN = "all lenses", "internal confidence", "the model's own probability"


def calibrated(name: str) -> str:
    """The name of a detector whose evidence is calibrated."""
    return f"{name}, calibrated"


@dataclass(frozen=True)
class Detector:
    """A way to find nouns that an image does not have.

    Attributes:
        name: for people.
        scores: ``[nouns]``, high for nouns that are said to be missing, by which they are ordered; NaN: no score.
        probabilities: ``[nouns]``, calibrated on other images; NaN: none.

    """

    name: str
    scores: Floats
    probabilities: Floats


@dataclass(frozen=True)
class ScoredNouns:
    """The said nouns of an analyze run with the evidence of each, in the same order.

    Attributes:
        said: the nouns.
        evidence: of each.
        images: the images by id.
        lenses: along the first axis of the evidence.
        layers: along its second axis.
        top_k: up to which rank a patch says a noun.
        fitted_on: hashes of images that a calibration was fitted on, which do not count.

    """

    said: Sequence[SaidNoun]
    evidence: Sequence[Evidence]
    images: Mapping[int, ImagePatches]
    lenses: Sequence[str]
    layers: Sequence[int]
    top_k: int
    fitted_on: frozenset[str] = frozenset()

    @cached_property
    def features(self) -> list[str]:
        """Names of the evidence along the second axis of `strengths`, such as "latent@8"."""
        return [f"{lens}@{layer}" for lens in self.lenses for layer in self.layers]

    @cached_property
    def strengths(self) -> Floats:
        """The strength of the evidence ``[nouns, lenses * layers]``, 0 to 1."""
        return np.stack([one.strength.ravel() for one in self.evidence])

    @property
    def scores(self) -> Floats:
        """1 - the mean strength: 1 where no patch says the noun, by any lens at any layer. Not a probability."""
        return 1 - self.strengths.mean(axis=1)

    @cached_property
    def known(self) -> npt.NDArray[np.bool_]:
        """Which nouns count: those of which it is known whether the image has them."""
        return np.array([noun.in_image is not None for noun in self.said], bool) & ~self.was_fitted_on

    @cached_property
    def was_fitted_on(self) -> npt.NDArray[np.bool_]:
        """Which nouns are of images that a given calibration was fitted on."""
        return np.isin(self.hashes, list(self.fitted_on))

    @cached_property
    def absent(self) -> npt.NDArray[np.bool_]:
        """Which nouns the image is known not to have."""
        return np.array([noun.in_image is False for noun in self.said], bool)

    @cached_property
    def hashes(self) -> npt.NDArray[np.str_]:
        """The hash of the image of each noun."""
        return np.array([self.images[noun.image_id].sha256 for noun in self.said])

    @property
    def can_be_calibrated(self) -> bool:
        """Whether there are both nouns that images have and nouns that they do not have, on two images at least."""
        kinds = set(self.absent[self.known].tolist())
        return len(kinds) == 2 and len(set(self.hashes[self.known].tolist())) > 1

    def calibration(self) -> Calibration:
        """Fitted on all nouns whose truth is known."""
        return Calibration.fit(self.features, self.strengths[self.known], self.absent[self.known])

    def cross_validated(self, evidence: Floats) -> Floats:
        """The probability ``[nouns]`` that each noun is missing, from calibrations on other images.

        NaN for nouns whose evidence ``[nouns, features]`` is not known, and for images in `fitted_on`.
        """
        kept = ~self.was_fitted_on & ~np.isnan(evidence).any(axis=1)
        folds = np.array([fold_of(sha256) for sha256 in self.hashes[kept]])
        names = [str(number) for number in range(evidence.shape[1])]
        found = np.full(len(self.said), np.nan)
        found[kept] = cross_validated(names, evidence[kept], self.absent[kept], folds, self.known[kept])
        return found

    def detectors(self, probabilities: Floats) -> list[Detector]:
        """All lenses together, with these probabilities; each lens; and what others have published."""
        found = [Detector(calibrated(TOGETHER), probabilities, probabilities)]
        by_lens = self.strengths.reshape(len(self.said), len(self.lenses), -1)
        for number, lens in enumerate(self.lenses):
            of_lens = self.cross_validated(by_lens[:, number])
            found.append(Detector(calibrated(title_of(lens)), of_lens, of_lens))
        found.append(self._plain(f"{TOGETHER}, not calibrated", self.scores))
        for number, lens in enumerate(self.lenses):
            found.append(self._plain(f"{title_of(lens)}, not calibrated", 1 - by_lens[:, number].mean(axis=1)))
        says = np.array([((one.ranks > 0) & (one.ranks <= self.top_k)).any() for one in self.evidence])
        silent = np.where(says, 0.0, 1.0)
        found.append(Detector(f"no patch says it ({self.top_k} words a lens)", silent, silent))
        found.append(self._plain(CONFIDENCE, 1 - np.array([one.probability for one in self.evidence])))
        found.append(self._plain(OWN, 1 - np.array([noun.probability for noun in self.said])))
        return [detector for detector in found if not np.isnan(detector.scores[self.known]).all()]

    def _plain(self, name: str, scores: Floats) -> Detector:
        """A single number, calibrated for precision, recall and Brier score alone."""
        return Detector(name, scores, self.cross_validated(1 - scores[:, None]))

    def measured(self, detectors: Sequence[Detector]) -> pd.DataFrame:
        """A line for each detector, of all nouns whose truth is known, and of those that texts say if there are others.

        Columns: ``of``, ``detector``, ``nouns``, ``absent`` (their number), ``images``; `MEASURES` with ``_low`` and
        ``_high`` (95 % over images). ``brier_base`` is the Brier score of the share of absent nouns. Precision, recall
        and Brier score are those of the calibrated probabilities at 0.5.
        """
        of_texts = np.array([noun.source == "text" for noun in self.said], bool)
        groups = {ALL: self.known, TEXTS: self.known & of_texts}
        lines = []
        for group, members in groups.items():
            if group == TEXTS and (members == self.known).all():
                continue
            for detector in detectors:
                kept = members & ~np.isnan(detector.scores)
                if kept.any():
                    lines.append({"of": group, "detector": detector.name} | self._measured(detector, kept))
        return pd.DataFrame(lines)

    def _measured(self, detector: Detector, kept: npt.NDArray[np.bool_]) -> dict[str, float]:
        absent, hashes = self.absent[kept], self.hashes[kept]
        share = float(absent.mean())
        found: dict[str, float] = {"nouns": int(kept.sum()), "absent": int(absent.sum()), "images": len(set(hashes))}
        kinds = (
            (detector.scores, ("auroc", "average_precision")),
            (detector.probabilities, ("precision", "recall", "brier")),
        )
        for values, names in kinds:
            chosen = values[kept]
            if np.isnan(chosen).any():
                bounds = [(np.nan,) * 3] * len(names)
            else:
                bounds = over_images([MEASURES[name] for name in names], chosen, absent, hashes.tolist())
            for name, bound in zip(names, bounds, strict=True):
                found |= dict(zip((name, f"{name}_low", f"{name}_high"), bound, strict=True))
        return found | {"brier_base": share * (1 - share)}

    def table(self, probabilities: Floats) -> pd.DataFrame:
        """A line for each noun of each image: what is said, the scores, and the patch that says it best."""
        lines = []
        for noun, evidence, score, probability in zip(
            self.said, self.evidence, self.scores, probabilities, strict=True
        ):
            strength = evidence.strength
            at = np.lexsort((evidence.patches.ravel(), strength.ravel()))[-1]
            lens, layer = np.unravel_index(at, strength.shape)
            seen = bool(evidence.ranks[lens, layer])
            view, row, col = evidence.places[lens, layer].tolist() if seen else (None,) * 3
            lines.append(
                {
                    "image": self.images[noun.image_id].path,
                    "image_id": noun.image_id,
                    "source": noun.source,
                    "noun": noun.noun,
                    "word": noun.word,
                    "sentence": noun.sentence,
                    "in_image": "" if noun.in_image is None else ("no", "yes")[noun.in_image],
                    "score": score,
                    "probability": probability,
                    "lens": self.lenses[lens] if seen else "",
                    "layer": self.layers[layer] if seen else None,
                    "rank": int(evidence.ranks[lens, layer]) if seen else None,
                    "patches": int(evidence.patches[lens, layer]) if seen else None,
                    **{"view": view, "row": row, "col": col},
                    "internal_confidence": evidence.probability,
                    "model_probability": noun.probability,
                }
            )
        whole = ["layer", "rank", "patches", "view", "row", "col"]
        return pd.DataFrame(lines).astype(dict.fromkeys(whole, "Int64"))


def curve_table(scored: ScoredNouns, detectors: Sequence[Detector]) -> pd.DataFrame:
    """Precision and recall of each detector at each of its scores, from the highest on."""
    lines = []
    for detector in detectors:
        kept = scored.known & ~np.isnan(detector.scores)
        curve = precision_recall_curve(detector.scores[kept], scored.absent[kept])
        lines.append(pd.DataFrame(curve, columns=["score", "precision", "recall"]).assign(detector=detector.name))
    return pd.concat(lines)[["detector", "score", "precision", "recall"]]


def reliability_table(scored: ScoredNouns, detectors: Sequence[Detector]) -> pd.DataFrame:
    """Of ten equal parts of the probabilities of each detector: nouns, mean probability, and share that is missing."""
    lines = []
    for detector in detectors:
        kept = scored.known & ~np.isnan(detector.probabilities)
        if kept.any():
            bins = reliability(detector.probabilities[kept], scored.absent[kept])
            lines.append(pd.DataFrame(bins, columns=["nouns", "probability", "absent"]).assign(detector=detector.name))
    found = pd.concat(lines)[["detector", "nouns", "probability", "absent"]]
    return found.astype({"nouns": int})
