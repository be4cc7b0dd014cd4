"""An image's reading as a script that the image page decodes: compact, and no text in it can end the script.

Integers are stored as base64 of the narrowest unsigned type, little-endian; the largest value of the type means "none".
Scores are stored as uint16: 65,535 even steps between a lens's lowest and highest score. Sentences are split around the
token here, because Python and JavaScript count the characters of a text differently. templates/data/image-data.js
reads all of it.
"""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lenscore.readings.image_reading import ImageReading, LensReading, PatchVerdict, Truth, Word
from lenscore.readings.lens_titles import title_of, unit_of_scores
from lenscore.readings.page_json import script_json
from lenscore.readings.words import token_word

_SCORE_STEPS = 65534
_KNOWN_WORDS = 1 << 18
"""How many words are remembered: many images of a run have the same ones."""
_EMPTY = ("P", "Z", "C", "Sm", "Sc", "Sk")  # Unicode categories: punctuation, blanks, controls, signs except emoji


def image_script(image_id: int, reading: ImageReading) -> bytes:
    """Returns ``images/NNNNNN.js``: one image as ``lenscore.image({...})``."""
    picture = reading.picture
    lens_places = {lens.lens: place for place, lens in enumerate(reading.lenses)}
    layer_places = {layer: place for place, layer in enumerate(reading.layers)}
    data = {
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
    return f"lenscore.image({script_json(data)});\n".encode()


def run_script(
    model: str, layers: Sequence[int], lenses: Sequence[str], top_k: int, images: Sequence[tuple[int, str, str | None]]
) -> bytes:
    """Returns ``run.js``: what all images share, as ``lenscore.run({...})``.

    Args:
        model: the model's label.
        layers: visual layers.
        lenses: names of the lenses.
        top_k: candidates of a lens.
        images: (image_id, name, address of the thumbnail relative to the page, or None), in the order of the page.

    """
    data = {
        "model": model,
        "layers": list(layers),
        "lenses": [_titled(lens) for lens in lenses],
        "topK": top_k,
        "images": [list(image) for image in images],
    }
    return f"lenscore.run({script_json(data)});\n".encode()


def packed(values: npt.NDArray[Any]) -> list[Any]:
    """Returns integers >= -1 of any shape as [bytes per number, base64]; -1 becomes the largest value of the type."""
    largest = int(values.max(initial=-1))
    width = next(width for width in (1, 2, 4) if largest < 2 ** (8 * width) - 1)
    return [width, _base64(values.astype(np.int64).astype(f"<u{width}").tobytes())]


@lru_cache(_KNOWN_WORDS)
def is_empty(text: str) -> bool:
    """Returns whether a word has only blanks, punctuation and bytes that are no character."""
    return all(one == "\ufffd" or unicodedata.category(one).startswith(_EMPTY) for one in token_word(text))


def visible(text: str) -> str:
    """Returns the text; blanks become visible signs if it has nothing else."""
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


@lru_cache(_KNOWN_WORDS)
def _word_data(word: Word) -> tuple[str, ...]:
    """(text), (text, token) or (text, token, before, mark, after)."""
    text = visible(word.text)
    if not word.sentence:
        return (text, word.token) if word.token not in ("", word.text) else (text,)
    sentence, start, end = word.sentence, word.start, word.end
    return text, word.token, sentence[:start], visible(sentence[start:end]), sentence[end:]


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
