"""An image's reading as a script that the image page decodes: compact, and no text in it can end the script.

Words stand in the scripts of `candidate_words`, all else in `script_bytes.PackedArrays`. Scores are uint16: 65,535 even
steps between a lens's lowest and highest score, and behind the first of a patch the difference from the one before.
Sentences are split around the token here, because Python and JavaScript count the characters of a text differently.
templates/data/image-data.js reads all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lenscore.readings.image_reading import (
    ExplainedReading,
    ImageReading,
    LensReading,
    PatchMap,
    PatchVerdict,
    Truth,
)
from lenscore.readings.lens_titles import title_of, unit_of_scores
from lenscore.readings.page_json import script_json
from lenscore.viewer.candidate_words import CandidateFiles
from lenscore.viewer.script_bytes import PackedArrays, characters

_SCORE_STEPS = 65534
_RECENT = 31
"""Words of a patch and its neighbours, and of adjacent layers, are often the same: how many words a repetition may go
back."""


def image_script(image_id: int, reading: ImageReading, candidates: CandidateFiles) -> Callable[[], str]:
    """Returns what packs ``images/NNNNNN.js``: one image as ``lenscore.image(...)``. Its words go to the candidates."""
    picture = reading.picture
    lens_places = {lens.lens: place for place, lens in enumerate(reading.lenses)}
    layer_places = {layer: place for place, layer in enumerate(reading.layers)}
    arrays = PackedArrays()
    data = {
        "id": image_id,
        "name": reading.name,
        "caption": reading.caption,
        "width": reading.width,
        "height": reading.height,
        "mediaType": picture and picture.media_type,
        "views": [[view, name] for view, name in reading.views.items()],
        "places": arrays.add(reading.places.T),
        "boxes": arrays.add(reading.boxes.T, "<f4"),
        "layers": list(reading.layers),
        "topK": reading.top_k,
        "lenses": [_lens_data(lens, arrays, candidates) for lens in reading.lenses],
        "verdicts": [_verdict_data(verdict, layer_places, lens_places) for verdict in reading.verdicts],
        "truth": reading.truth and _truth_data(reading.truth, arrays),
        **({"maps": [_map_data(one, arrays) for one in reading.maps]} if reading.maps else {}),
    }
    place = list(arrays.add(np.frombuffer(script_json(data).encode("ascii"), np.uint8)))
    head = f"{image_id},{candidates.number},{place}"

    def script() -> str:
        return f"lenscore.image({head},{arrays.packed()},{characters(picture.data) if picture else 'null'});\n"

    return script


def run_script(
    model: str,
    layers: Sequence[int],
    lenses: Sequence[str],
    top_k: int,
    images: Sequence[tuple[int, str, str | None]],
    has_texts: bool = False,
) -> str:
    """Returns ``run.js``: what all images share, as ``lenscore.run({...})``.

    Args:
        model: the model's label.
        layers: visual layers.
        lenses: names of the lenses.
        top_k: candidates of a lens.
        images: (image_id, name, address of the thumbnail relative to the page, or None), in the order of the page.
        has_texts: whether there is a page texts/NNNNNN.html for each image.

    """
    data = {
        "model": model,
        "layers": list(layers),
        "lenses": [_titled(lens) for lens in lenses],
        "topK": top_k,
        "images": [list(image) for image in images],
        "hasTexts": has_texts,
    }
    return f"lenscore.run({script_json(data)});\n"


def _titled(lens: str) -> dict[str, str]:
    return {"name": lens, "title": title_of(lens), "unit": unit_of_scores(lens)}


def _lens_data(lens: LensReading, arrays: PackedArrays, candidates: CandidateFiles) -> dict[str, Any]:
    steps, low, step = _steps(np.where(lens.which < 0, np.nan, lens.scores))
    steps[..., 1:] = (steps[..., :-1] - steps[..., 1:]) % (_SCORE_STEPS + 2)
    used, which = lens.used()
    words, which = _equals_by_place(candidates.places(lens.words, used), which)
    numbers = lens.next_token
    return {
        **_titled(lens.lens),
        "topK": lens.which.shape[2],
        "words": arrays.add(np.diff(words, prepend=0) % 2**32, "<u4"),
        "which": arrays.add(_with_repetitions(np.swapaxes(which, 0, 1).ravel() + 1)),
        "steps": [arrays.add(of_rank, "<u2") for of_rank in np.moveaxis(steps, 2, 0)],
        "low": low,
        "step": step,
        "contexts": None if lens.contextual_layers is None else arrays.add(lens.contextual_layers),
        "nextToken": None
        if numbers is None
        else {
            "logNormalizers": _number_data(numbers.log_normalizers, arrays),
            "entropies": _number_data(numbers.entropies, arrays),
            "divergences": _number_data(numbers.divergences, arrays),
        },
        **_explained_data(lens.explained, arrays),
    }


def _equals_by_place(
    places: npt.NDArray[np.int64], which: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Words that are equally frequent in the order of their places: small differences take few bytes."""
    counts = np.bincount(which.ravel() + 1, minlength=1)[1:]
    order = np.lexsort((places, -counts))
    return places[order], np.append(np.argsort(order), -1)[which]


def _with_repetitions(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Numbers >= 0 as they are plus `_RECENT`, or, if one of the last so many is the same, how many lie between."""
    codes = numbers + _RECENT
    for back in range(_RECENT, 0, -1):
        codes[back:][numbers[back:] == numbers[:-back]] = back - 1
    return codes


def _explained_data(explained: ExplainedReading | None, arrays: PackedArrays) -> dict[str, Any]:
    """Shares of the five best and of random candidates; nothing of runs that did not ask for them."""
    if explained is None:
        return {}
    shares = {"best": explained.explained_5, "random": explained.random_5}
    return {"explained": {name: _number_data(values, arrays) for name, values in shares.items()}}


def _map_data(one: PatchMap, arrays: PackedArrays) -> dict[str, Any]:
    texts = {"name": one.name, "title": one.title, "explanation": one.explanation, "lens": one.lens}
    return texts | {"values": _number_data(one.values, arrays)}


def _number_data(values: npt.NDArray[np.float32], arrays: PackedArrays) -> dict[str, Any]:
    steps, low, step = _steps(values)
    return {"steps": arrays.add(steps, "<u2"), "low": low, "step": step}


def _steps(values: npt.NDArray[np.floating[Any]]) -> tuple[npt.NDArray[np.int64], float, float]:
    """Values as even steps between the lowest and the highest, that and the size of a step; 65,535 is not finite."""
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    low = float(values[finite].min(initial=np.inf)) if finite.any() else 0.0
    step = (float(values[finite].max()) - low) / _SCORE_STEPS if finite.any() else 0.0
    steps = np.full(values.shape, _SCORE_STEPS + 1, np.int64)
    steps[finite] = np.rint((values[finite] - low) / step) if step else 0
    return steps, low, step


def _verdict_data(verdict: PatchVerdict, layers: Mapping[int, int], lenses: Mapping[str, int]) -> list[Any]:
    kinds = {kind: list(words) for kind, words in verdict.kinds.items() if words}
    where = [verdict.patch, layers[verdict.layer], lenses[verdict.lens]]
    return [verdict.judge, *where, verdict.outcome, list(verdict.fitting), kinds]


def _truth_data(truth: Truth, arrays: PackedArrays) -> dict[str, Any]:
    things = [
        {"kind": thing.kind, "aspects": [[aspect, list(words)] for aspect, words in thing.aspects.items() if words]}
        for thing in truth.things
    ]
    percent = np.rint(100 * truth.share.astype(np.float64)).astype(np.int64)
    return {"things": things, "which": arrays.add(truth.which), "percent": arrays.add(percent)}
