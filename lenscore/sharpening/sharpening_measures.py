"""Whether new sentences sharpen what LatentLens says: rates, specificity and cosines, and differences to controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenscore.judging.patches import PatchRef
from lenscore.readings.words import sentence_with_mark
from lenscore.sharpening.patch_words import found_word, phrase_of
from lenscore.sharpening.search_names import FOUND, OF_CORPUS, OTHER_PATCH, RANDOM_ROWS, RANDOM_SENTENCES, RANDOM_WORDS
from lenscore.sharpening.sharpening_rounds import Searched
from lenscore.sharpening.true_attributes import TrueAttributes
from lenscore.statistics.detection import TAILS, drawn_images
from lenscore.statistics.intervals import difference_text, points, share_text
from storage_layouts.files import canonical_json

Floats = npt.NDArray[np.float64]
TRUTHS = {
    "rate": "one of the best words is the noun of the object",
    "first": "the best word is one for an attribute of the object",
    "specific": "the best sentence names two true attributes or more",
    "exact": "the best word with up to three words before it names two true attributes or more, and nothing false",
}
"""Measures that need a truth, as shares of patches."""
OTHERS = {"new": "the best sentence is a new one", "cosine": "mean cosine of the best rows"}
BY_CHANCE = "_by_chance"
"""Behind the name of a measure: that of the words and sentences of a patch of another image."""
MEASURES = (*TRUTHS, *(f"{name}{BY_CHANCE}" for name in TRUTHS), *OTHERS)
STORE = "the store alone"
_CONTROLS = {
    OTHER_PATCH: "sentences that pair them with words of other patches",
    RANDOM_WORDS: "sentences with random words",
    RANDOM_SENTENCES: "random sentences of the corpus",
    RANDOM_ROWS: "rows of random sentences of the corpus",
}


@dataclass(frozen=True)
class Measured:
    """A round with its measures, each float64 [patches, layers]."""

    searched: Searched
    values: Mapping[str, Floats]


def measured(searched: Searched, truths: Sequence[TrueAttributes], others: Sequence[int | None]) -> Measured:
    """Measure a round.

    Args:
        searched: the round.
        truths: of the patches; without them only `OTHERS` are measured.
        others: for each patch the number of one of another image, whose words and sentences are right by chance.

    """
    ids = searched.top.ids.transpose(0, 1).numpy()  # [patches, layers, k]
    values = {"new": (ids[..., 0] >= searched.first_added).astype(float)}
    values["cosine"] = searched.top.scores[..., 0].T.double().numpy()
    if truths:
        values |= dict(zip(TRUTHS, _true(searched, ids, truths), strict=True))
        if None not in others:
            by_chance = _true(searched, ids[np.array(others)], truths)
            values |= {f"{name}{BY_CHANCE}": one for name, one in zip(TRUTHS, by_chance, strict=True)}
    return Measured(searched, values)


def _true(searched: Searched, ids: npt.NDArray[np.int32], truths: Sequence[TrueAttributes]) -> Floats:
    """The `TRUTHS` of rows [patches, layers, k]: [truths, patches, layers]."""
    words = {row: found_word(word) for row, word in searched.described.items()}
    phrases = {row: phrase_of(searched.described[row]) for row in set(ids[..., 0].flatten().tolist())}
    found = np.zeros((len(TRUTHS), *ids.shape[:2]))
    for patch, layer in np.ndindex(*ids.shape[:2]):
        truth, rows = truths[patch], ids[patch, layer].tolist()
        found[:, patch, layer] = (
            truth.has_noun(words[row] for row in rows),
            truth.is_own(words[rows[0]]),
            truth.is_specific(searched.described[rows[0]].sentence),
            truth.is_exact(phrases[rows[0]]),
        )
    return found


class OverImages:
    """Means of values of patches with 95 % intervals from bootstrap samples of their images, the same for all means."""

    def __init__(self, patches: Sequence[PatchRef]) -> None:
        names, self._which = np.unique([place.sha256 for place in patches], return_inverse=True)
        self.images = len(names)
        self._drawn = drawn_images(names.tolist())
        self._patches = self._drawn @ np.bincount(self._which, minlength=self.images)

    def mean(self, values: Floats) -> tuple[float, float, float]:
        """Mean, low and high of values [patches]; without two images the interval is NaN."""
        if self.images < 2:
            return float(values.mean()), np.nan, np.nan
        resampled = self._drawn @ np.bincount(self._which, values, self.images) / self._patches
        low, high = np.percentile(resampled, TAILS).tolist()
        return float(values.mean()), low, high


def rounds_table(rounds: Sequence[Measured], over_images: OverImages, layers: Sequence[int]) -> pd.DataFrame:
    """A line for each round of each source and kind of words, for each layer and for the mean of all."""
    lines = []
    for one in rounds:
        of: list[tuple[Any, slice | int]] = [("all", slice(None)), *((layer, i) for i, layer in enumerate(layers))]
        for layer, chosen in of:
            line = _line(one.searched) | {"layer": layer, "sentences": one.searched.sentences}
            line |= {"rows": one.searched.rows, "patches": len(next(iter(one.values.values())))}
            line |= {"images": over_images.images}
            for name in (name for name in MEASURES if name in one.values):
                values = one.values[name][:, chosen]
                line |= _interval(name, over_images.mean(values.mean(axis=1) if values.ndim > 1 else values))
            lines.append(line)
    return pd.DataFrame(lines)


def differences_table(rounds: Sequence[Measured], over_images: OverImages) -> pd.DataFrame:
    """By how much the found words exceed the store alone and each control, in means over the layers, by round."""
    start, *others = rounds
    by_place = {(one.searched.source, one.searched.round, one.searched.kind): one for one in others}
    lines = []
    for (source, number, kind_of_words), found in by_place.items():
        if kind_of_words != FOUND:
            continue
        against = {STORE: start} | {
            kind: one for (name, at, kind), one in by_place.items() if (name, at) == (source, number) and kind != FOUND
        }
        for kind, one in against.items():
            line: dict[str, Any] = {"source": source, "round": number, "against": kind}
            line |= {"sentences": found.searched.sentences, "sentences_against": one.searched.sentences}
            line |= {"rows": found.searched.rows, "rows_against": one.searched.rows}
            for name in (name for name in (*TRUTHS, *OTHERS) if name in found.values):
                exceeding = found.values[name] - one.values[name]
                line |= _interval(name, over_images.mean(exceeding.mean(axis=1)))
            lines.append(line)
    return pd.DataFrame(lines)


def found_table(
    rounds: Sequence[Measured], patches: Sequence[PatchRef], paths: Mapping[int, str], layers: Sequence[int]
) -> pd.DataFrame:
    """The best sentence of every patch and layer, in the store alone and behind the last round."""
    last = max(one.searched.round for one in rounds)
    lines = []
    for one in rounds:
        if one.searched.round not in (0, last):
            continue
        ids, scores, contexts = (part.numpy() for part in one.searched.top)
        for patch, place in enumerate(patches):
            for number, layer in enumerate(layers):
                words = [one.searched.described[row] for row in ids[number, patch].tolist()]
                best = words[0]
                line: dict[str, Any] = {
                    "image": paths[place.image_id],
                    "view": place.view,
                    "row": place.row,
                    "col": place.col,
                }
                line |= {"layer": layer} | _line(one.searched)
                line |= {"sentence": sentence_with_mark(best.sentence, best.start, best.end)}
                line |= {"words": " | ".join(found_word(word) for word in words)}
                line |= {"cosine": float(scores[number, patch, 0])}
                line |= {"contextual_layer": int(contexts[number, patch, 0])}
                line |= {name: int(one.values[name][patch, number]) for name in (*TRUTHS, "new") if name in one.values}
                lines.append(line)
    return pd.DataFrame(lines)


def sentences_table(rounds: Sequence[Measured]) -> pd.DataFrame:
    """All new sentences, those of the controls too, to look at; `found_corpora` are for `lens extract`."""
    lines = [_line(one.searched) | {"sentence": text} for one in rounds for text in one.searched.new]
    return pd.DataFrame(lines, columns=["source", "kind", "round", "sentence"])


def found_corpora(rounds: Sequence[Measured]) -> dict[str, bytes]:
    """The new sentences of found words, without those of controls: a corpus in JSON lines for each source."""
    texts: dict[str, list[str]] = {}
    for one in rounds:
        if one.searched.source and one.searched.kind == FOUND:
            texts.setdefault(one.searched.source, []).extend(one.searched.new)
    return {
        source: b"".join(canonical_json({"sentence": text}) + b"\n" for text in some) for source, some in texts.items()
    }


def summary(rounds: Sequence[Measured], differences: pd.DataFrame, over_images: OverImages) -> list[str]:
    """What was found, in sentences: for each source the measures behind the last round, and what exceeds controls."""
    start, last = rounds[0], max(one.searched.round for one in rounds)
    asked = [name for name in TRUTHS if name in start.values] or ["cosine"]
    lines = [f"{STORE}: {_shares(start, asked, over_images)}"]
    for one in rounds:
        if one.searched.round != last or one.searched.kind != FOUND:
            continue
        lines.append(
            f"{one.searched.source}, round {last}: {one.searched.sentences:,} new sentences ({one.searched.rows:,} "
            f"rows): {_shares(one, asked, over_images)}"
        )
        of = differences[(differences["source"] == one.searched.source) & (differences["round"] == last)]
        for line in of.to_dict("records"):
            said = "; ".join(f"{name} {_difference(line, name)}" for name in asked)
            lines.append(f"  more than {_against(line)} by: {said}")
    return lines


def _against(line: Mapping[Any, Any]) -> str:
    if line["against"] == STORE:
        return STORE
    what, count = _CONTROLS[line["against"]], "rows" if line["against"] == RANDOM_ROWS else "sentences"
    missing = line[count] - line[f"{count}_against"]
    why = "the corpus has no more" if line["against"] in OF_CORPUS else "no more were found"
    return f"as many {what}{f' ({missing:,} fewer: {why})' if missing else ''}"


def _shares(one: Measured, names: Sequence[str], over_images: OverImages) -> str:
    means = {name: over_images.mean(one.values[name].mean(axis=1)) for name in names}
    said = []
    for name, mean in means.items():
        chance = one.values.get(f"{name}{BY_CHANCE}")
        by_chance = "" if chance is None else f", by chance {share_text(float(chance.mean()), np.nan, np.nan)}"
        cosine = f"{mean[0]:.3f}" + (f" ({mean[1]:.3f}–{mean[2]:.3f})" if mean[1] == mean[1] else "")
        said.append(f"{name} {cosine if name in OTHERS else share_text(*mean)}{by_chance}")
    return "; ".join(said)


def _difference(line: Mapping[Any, Any], name: str) -> str:
    value, low, high = (line[f"{name}{end}"] for end in ("", "_low", "_high"))
    if low != low:  # one image
        return f"{value:+.3f}" if name in OTHERS else points(value)
    text = f"{value:+.3f} ({low:+.3f} to {high:+.3f})" if name in OTHERS else difference_text(value, low, high)
    return text if low > 0 or high < 0 else f"{text}, not significant"


def _line(searched: Searched) -> dict[str, Any]:
    return {"source": searched.source or "store", "kind": searched.kind, "round": searched.round}


def _interval(name: str, mean: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), mean, strict=True))
