"""The page of one text as HTML, with its data, styles and scripts inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from lenscore.readings.image_reading import LensReading, Word
from lenscore.readings.lens_titles import title_of, unit_of_scores
from lenscore.readings.page_json import script_json
from lenscore.readings.text_reading import TextReading
from lenscore.viewer.image_page import TEMPLATES, page_file, scripts_of
from storage_layouts.counts import counted

TEXT_FILES = ("viewer.css", "text.css", *scripts_of("jsconfig.text.json"))
"""Files of templates/ that the page holds."""
_DIGITS = 5
"""Of scores and other numbers on the page, which shows fewer."""


def text_page(reading: TextReading, model: str, home: str | None = None) -> str:
    """Returns one HTML file that needs no network; ``home`` is the address of the page that it belongs to."""
    answer = len(reading.tokens) - reading.prompt_tokens
    said = [model, counted(reading.prompt_tokens, "token")] + (
        [f"{counted(answer, 'token')} of answer"] if answer else []
    )
    data = {
        "name": reading.name,
        "model": model,
        "tokens": list(reading.tokens),
        "tokenIds": list(reading.token_ids),
        "promptTokens": reading.prompt_tokens,
        "layers": list(map(str, reading.layers)),
        "lenses": [_lens_data(lens) for lens in reading.lenses],
    }
    # Safe: files of this package, and data in which script_json leaves no "<".
    safe = {
        "styles": "\n".join(page_file(name) for name in TEXT_FILES if name.endswith(".css")),
        "scripts": "\n".join(page_file(name) for name in TEXT_FILES if name.endswith(".js")),
        "data": script_json(data),
    }
    return TEMPLATES.get_template("text_page.html").render(
        title=f"{reading.name} · {model}",
        name=reading.name,
        about=", ".join(said) + (f"; {reading.layer_note}" if reading.layer_note else ""),
        home=home,
        **{name: Markup(text) for name, text in safe.items()},  # noqa: S704
    )


def _lens_data(lens: LensReading) -> dict[str, Any]:
    used, which = lens.used()
    numbers = lens.next_token
    return {
        "name": lens.lens,
        "title": title_of(lens.lens),
        "unit": unit_of_scores(lens.lens),
        "topK": lens.which.shape[2],
        "words": [_word_data(lens.words[place]) for place in used.tolist()],
        "which": which.ravel().tolist(),
        "scores": _rounded(np.where(lens.which < 0, 0, lens.scores)),
        "contexts": None if lens.contextual_layers is None else lens.contextual_layers.ravel().tolist(),
        "logNormalizers": None if numbers is None else _rounded(numbers.log_normalizers),
        "entropies": None if numbers is None else _rounded(numbers.entropies),
        "divergences": None if numbers is None else _rounded(numbers.divergences),
    }


def _word_data(word: Word) -> dict[str, Any]:
    # Split here, because Python and JavaScript count the characters of a text differently.
    parts = (word.sentence[: word.start], word.sentence[word.start : word.end], word.sentence[word.end :])
    return {"text": word.text, "id": word.token_id, "sentence": list(parts) if word.sentence else None}


def _rounded(values: npt.NDArray[np.float32]) -> list[float]:
    return np.round(values.astype(np.float64).ravel(), _DIGITS).tolist()
