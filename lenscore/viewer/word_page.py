"""The page of chosen words in one image, as HTML with its data, styles and scripts inside.

Picture, patches and colours are those of the image page; templates/word/word-page.js has what is its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from lenscore.readings.image_reading import ImageReading
from lenscore.readings.lens_titles import title_of, unit_of_scores
from lenscore.readings.page_json import script_json
from lenscore.readings.word_reading import WordReading
from lenscore.viewer.candidate_words import CandidateFiles
from lenscore.viewer.image_page import TEMPLATES, page_file, scripts_of
from lenscore.viewer.page_data import image_script
from lenscore.viewer.script_bytes import PackedArrays
from storage_layouts.counts import counted

_SCRIPTS = scripts_of("jsconfig.word.json")
WORD_FILES = ("viewer.css", "image.css", "word/word.css", *_SCRIPTS)
"""Files of templates/ that the page holds."""
_LOADERS = _SCRIPTS[:2]  # before the data


def word_page(
    reading: ImageReading, words: Sequence[str], lenses: Sequence[WordReading], model: str, explanation: str = ""
) -> str:
    """Returns one HTML file that needs no network: a map of each word by each lens, at every layer of the reading.

    Args:
        reading: the image, its patches and layers.
        words: the words, no two the same.
        lenses: the maps.
        model: its label.
        explanation: what a score is, unless it is that of a word by a lens; then the words are tokens of an answer.

    """
    candidates, arrays = CandidateFiles(), PackedArrays()
    data = {
        "model": model,
        "words": list(words),
        "lenses": [_lens_data(lens, arrays) for lens in lenses],
        "explanation": explanation,
    }
    # Safe: files of this package, and data in which script_json leaves no "<".
    safe = {
        "styles": "\n".join(page_file(name) for name in WORD_FILES if name.endswith(".css")),
        "before": "\n".join(map(page_file, _LOADERS)),
        "image": image_script(0, reading, candidates)() + candidates.script()(),
        "data": script_json(data),
        "arrays": arrays.packed(),
        "scripts": "\n".join(map(page_file, _SCRIPTS[len(_LOADERS) :])),
    }
    return TEMPLATES.get_template("word/word_page.html").render(
        title=f"{', '.join(words)} · {reading.name}",
        name=reading.name,
        about=f"{model} · {counted(len(reading.places), 'patch')}",
        caption=reading.caption,
        of_answer=bool(explanation),
        **{name: Markup(text) for name, text in safe.items()},  # noqa: S704
    )


def _lens_data(lens: WordReading, arrays: PackedArrays) -> dict[str, Any]:
    probabilities, contexts = lens.probabilities, lens.contextual_layers
    return {
        "name": lens.lens,
        "title": title_of(lens.lens),
        "unit": unit_of_scores(lens.lens),
        "sought": list(lens.sought),
        "candidates": lens.candidates,
        "scores": arrays.add(lens.scores, "<f4"),
        "ranks": arrays.add(np.where(lens.ranks > 0, lens.ranks, -1), "<u4"),
        "probabilities": None if probabilities is None else arrays.add(probabilities, "<f4"),
        "contexts": None if contexts is None else arrays.add(contexts, "<u4"),
    }
