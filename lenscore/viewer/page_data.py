"""An image's reading as a script that the image page decodes: compact, and no text in it can end the script.

Whole numbers stand as base64 of the narrowest unsigned integers, little-endian, where the largest value of the type
means "none". Scores are such numbers too: 65,535 even steps between a lens's lowest and highest. Sentences are cut
around the token here, because Python and JavaScript count the characters of a text differently.
templates/image-data.js is the reader.
"""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lenscore.readings.image_reading import ImageReading, LensReading, PatchVerdict, Truth, Word
from lenscore.readings.lens_titles import title_of, unit_of_scores
from lenscore.readings.page_json import script_json

_SCORE_STEPS = 65534
_SPACE_MARKERS = "▁Ġ"  # how tokenizers write a leading space
_NOTHING = ("P", "Z", "C", "Sm", "Sc", "Sk")  # Unicode categories: punctuation, blanks, controls, signs but no emoji


def image_script(image_id: int, reading: ImageReading) -> bytes:
    """``images/NNNNNN.js``: one image as ``lenscore.image({...})``."""
    return f"lenscore.image({script_json(image_data(image_id, reading))});\n".encode()


def run_script(
    model: str, layers: Sequence[int], lenses: Sequence[str], top_k: int, images: Sequence[tuple[int, str, str | None]]
) -> bytes:
    """``run.js``: what all images share, as ``lenscore.run({...})``.

    ``images`` are (image_id, name, address of the thumbnail as the page sees it or None), in the order in which the
    page leafs through them.
    """
    return f"lenscore.run({script_json(run_data(model, layers, lenses, top_k, images))});\n".encode()


def run_data(
    model: str, layers: Sequence[int], lenses: Sequence[str], top_k: int, images: Sequence[tuple[int, str, str | None]]
) -> dict[str, Any]:
    """What `run_script` writes, as plain values."""
    return {
        "model": model,
        "layers": list(layers),
        "lenses": [_titled(lens) for lens in lenses],
        "topK": top_k,
        "images": [list(image) for image in images],
    }


def image_data(image_id: int, reading: ImageReading) -> dict[str, Any]:
    """What `image_script` writes, as plain values."""
    picture = reading.picture
    lens_places = {lens.lens: place for place, lens in enumerate(reading.lenses)}
    layer_places = {layer: place for place, layer in enumerate(reading.layers)}
    return {
        "id": image_id,
        "name": reading.name,
        "caption": reading.caption,
        "width": reading.width,
        "height": reading.height,
        "picture": picture and f"data:{picture.media_type};base64,{_base64(picture.data)}",
        "views": [[view, name] for view, name in reading.views.items()],
        "places": packed(reading.places),
        "boxes": _base64(reading.boxes.astype("<f4").tobytes()),
        "layers": list(reading.layers),
        "topK": reading.top_k,
        "lenses": [_lens_data(lens) for lens in reading.lenses],
        "verdicts": [_verdict_data(verdict, layer_places, lens_places) for verdict in reading.verdicts],
        "truth": reading.truth and _truth_data(reading.truth),
    }


def packed(values: npt.NDArray[Any]) -> list[Any]:
    """Whole numbers >= -1 of any shape as [bytes a number, base64], -1 as the largest value of the type."""
    largest = int(values.max(initial=-1))
    width = next(width for width in (1, 2, 4) if largest < 2 ** (8 * width) - 1)
    return [width, _base64(values.astype(np.int64).astype(f"<u{width}").tobytes())]


def is_empty(text: str) -> bool:
    """Does a word say nothing to a reader? Blanks and punctuation do, and bytes that are no character."""
    shown = text.strip().lstrip(_SPACE_MARKERS)
    return all(character == "\ufffd" or unicodedata.category(character).startswith(_NOTHING) for character in shown)


def visible(text: str) -> str:
    """A text whose blanks can be seen, for tokens that are nothing else."""
    if text.strip():
        return text
    signs = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}
    return "".join(signs.get(character, repr(character)[1:-1]) for character in text) or "(empty)"


def _titled(lens: str) -> dict[str, str]:
    return {"name": lens, "title": title_of(lens), "unit": unit_of_scores(lens)}


def _lens_data(lens: LensReading) -> dict[str, Any]:
    scores = np.where(lens.which < 0, np.nan, lens.scores).astype(np.float64)
    finite = np.isfinite(scores)
    low = float(scores[finite].min(initial=np.inf)) if finite.any() else 0.0
    step = (float(scores[finite].max()) - low) / _SCORE_STEPS if finite.any() else 0.0
    steps = np.full(scores.shape, -1, np.int64)
    steps[finite] = np.rint((scores[finite] - low) / step) if step else 0
    return {
        **_titled(lens.lens),
        "topK": lens.which.shape[2],
        "words": [_word_data(word) for word in lens.words],
        "empty": [place for place, word in enumerate(lens.words) if is_empty(word.text)],
        "which": packed(lens.which),
        "scores": _base64(steps.astype("<u2").tobytes()),
        "low": low,
        "step": step,
        "contexts": None if lens.contextual_layers is None else packed(lens.contextual_layers),
    }


def _word_data(word: Word) -> list[str]:
    """[text], [text, token] or [text, token, before, mark, after]."""
    text = visible(word.text)
    if not word.sentence:
        return [text, word.token] if word.token not in ("", word.text) else [text]
    start, end = word.start, word.end
    blanks = len(word.sentence[start:end]) - len(word.sentence[start:end].lstrip())
    if blanks < end - start:  # many tokenizers count the space before a word as a part of it
        start += blanks
    return [text, word.token, word.sentence[:start], visible(word.sentence[start:end]), word.sentence[end:]]


def _verdict_data(verdict: PatchVerdict, layers: Mapping[int, int], lenses: Mapping[str, int]) -> list[Any]:
    kinds = {kind: list(words) for kind, words in verdict.kinds.items() if words}
    where = [verdict.patch, layers[verdict.layer], lenses[verdict.lens]]
    return [verdict.judge, *where, verdict.outcome, list(verdict.fitting), kinds]


def _truth_data(truth: Truth) -> dict[str, Any]:
    things = [
        {"kind": thing.kind, "aspects": [[aspect, list(words)] for aspect, words in thing.aspects.items() if words]}
        for thing in truth.things
    ]
    percent = np.rint(100 * truth.share.astype(np.float64)).astype(np.int64)
    return {"things": things, "which": packed(truth.which), "percent": packed(percent)}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
