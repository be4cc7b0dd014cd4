"""The planned sample of a judge run: its patches, and the words to judge on each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.analyzed_results import results_begun_with
from jobs.judge_settings import JudgeSettings
from lenscore.judging.candidates import CandidateWords, described_words, random_words
from lenscore.judging.patches import ImagePatches, PatchRef, readable_images
from storage_layouts.errors import CorruptError, InputError
from storage_layouts.fields import COUNT, OBJECT, TEXT, Kind, check_fields, list_of
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.shards import PLAN_REMEDY
from storage_layouts.tables import matrix_of_lists
from storage_layouts.verdicts import Verdict

SAMPLE = "sample.json"
_PARTNER = Kind(
    "null or four numbers",
    lambda key: key is None or (isinstance(key, list) and len(key) == 4 and all(map(COUNT.fits, key))),
)
_DESCRIBED = {"patches": list_of(OBJECT), "partners": list_of(_PARTNER), "vocabulary": list_of(TEXT)}

_Key = tuple[int, int, int, int]


@dataclass(frozen=True)
class JudgedItem:
    """One patch of the sample (`item`) with the words to judge: those of a lens at a layer, or of a control."""

    item: int
    layer: int
    lens: str
    control: str
    words: tuple[str, ...]


def results_of(settings: JudgeSettings, run: RunFolder) -> LensResults:
    """The results with which a judge run began. InputError if they, or its prompt, have changed."""
    results = results_begun_with(settings.results, run)
    if settings.asks and settings.question.template.name != run.inputs.get("prompt"):
        raise InputError(
            f"--prompt {settings.question.prompt}: found {settings.question.template.name}, but {run.path} began with "
            f"{run.inputs.get('prompt')}; put the old prompt back, or choose a new --out"
        )
    return results


class JudgedSample:
    """The planned patches of a run.

    Attributes:
        places: the patches, by item.
        right: for the truth, the right words of every patch; else empty sets.
        edge_distances: distance of each patch from the edge of its object, in sides of the patch; None if unknown.

    """

    def __init__(self, settings: JudgeSettings, run: RunFolder) -> None:
        described = json.loads(run.read_plan_file(SAMPLE))
        check_fields(run.path / SAMPLE, described, _DESCRIBED, PLAN_REMEDY)
        self._seed = settings.seed
        self._results = results_of(settings, run)
        self._words = CandidateWords(self._results, settings.question.describe)
        self._describing = self._results.description_lenses if settings.question.describe == "phrase" else ()
        self._texts: dict[str, dict[_Key, list[str]]] = {}
        self._top_k = settings.top_k or self._results.top_k
        self._partners: list[_Key | None] = [tuple(key) if key else None for key in described["partners"]]
        self._vocabulary: list[str] = described["vocabulary"]
        self.right = [frozenset(patch.pop("right", ())) for patch in described["patches"]]
        self.edge_distances: list[float | None] = [patch.pop("edge_distance", None) for patch in described["patches"]]
        try:
            self.places = [PatchRef(**patch | {"box": tuple(patch["box"])}) for patch in described["patches"]]
        except (TypeError, KeyError) as error:
            raise CorruptError(run.path / SAMPLE, f"patches: {error}", "those of a sample", PLAN_REMEDY) from None
        self._images: dict[int, ImagePatches] | None = None

    def asked(self, items: Sequence[int]) -> list[JudgedItem]:
        """All that is judged on some patches."""
        keys = {self.places[i].key for i in items} | {other for i in items if (other := self._partners[i])}
        tops = self._read_tops(keys)
        images = {key[0] for key in keys}
        self._texts = {lens: self._results.descriptions(lens, images) for lens in self._describing}
        return [asked for item in items for asked in self._asked_of_patch(item, tops)]

    def image_of(self, item: int) -> ImagePatches:
        """The image of a sampled patch, with all its patches."""
        if self._images is None:
            readable = readable_images(self._results.images(), self._results.geometry())
            self._images = {image.image_id: image for image in readable}
        return self._images[self.places[item].image_id]

    def verdict(self, one: JudgedItem, judge: str, outcome: str, fitting: tuple[str, ...], **more: Any) -> Verdict:
        """A verdict on a judged item; ``more`` are further fields of `Verdict`."""
        place = self.places[one.item].key
        return Verdict(*place, one.layer, one.lens, one.control, one.words, outcome, fitting, judge=judge, **more)

    def _asked_of_patch(self, item: int, tops: _Tops) -> Iterator[JudgedItem]:
        place, partner = self.places[item], self._partners[item]
        for layer in self._results.layers:
            for lens in self._results.lenses:
                yield JudgedItem(item, layer, lens, "", self._words_of(tops, place.key, layer, lens))
                if partner is not None:
                    yield JudgedItem(item, layer, lens, "other-patch", self._words_of(tops, partner, layer, lens))
                if self._vocabulary:
                    name = f"{self._seed}/{place.sha256}/{place.view}/{place.row}/{place.col}/{layer}/{lens}"
                    words = random_words(self._vocabulary, self._top_k, name)
                    yield JudgedItem(item, layer, lens, "random-words", words)

    def _words_of(self, tops: _Tops, key: _Key, layer: int, lens: str) -> tuple[str, ...]:
        ids = tops[key, layer, lens][: self._top_k]
        words = self._words.of(lens, ids)
        if lens not in self._texts:
            return words
        text = self._texts[lens][key][self._results.layers.index(layer)]
        return described_words(words, self._words.of(lens, ids[:1]), text)

    def _read_tops(self, keys: set[_Key]) -> _Tops:
        """The top ids of every lens at every layer for some patches."""
        table = self._results.results(columns=[*_PLACE, "layer", "lens", "ids"], patches=keys)
        matrix = matrix_of_lists(table["ids"])
        columns = zip(*(table[name].to_pylist() for name in (*_PLACE, "layer", "lens")), strict=True)
        tops = {(tuple(key), layer, lens): matrix[i] for i, (*key, layer, lens) in enumerate(columns)}
        expected = len(keys) * len(self._results.layers) * len(self._results.lenses)
        if len(tops) != expected:
            raise ValueError(f"{self._results.path}: {len(tops)} results for these patches, expected {expected}")
        return tops


_PLACE = ("image_id", "view", "row", "col")
_Tops = dict[tuple[_Key, int, str], npt.NDArray[np.int32]]
