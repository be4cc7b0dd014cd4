"""A reading as a table: one row per patch, layer, lens and rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenscore.readings.image_reading import ExplainedReading, ImageReading, LensReading

_PLACE = ("view", "row", "col")
_BOX = ("left", "top", "right", "bottom")
WORD_COLUMNS = (
    *("layer", "lens", "rank", "word", "token", "score", "probability", "entropy", "divergence"),
    *("contextual_layer", "sentence", "char_start", "char_end"),
)
EXPLAINED_COLUMNS = tuple(field.name for field in fields(ExplainedReading))
"""Further columns, if the explained variance was asked for."""
COLUMNS = ("patch", "view", "view_name", "row", "col", *_BOX, *WORD_COLUMNS)


def reading_table(reading: ImageReading) -> pd.DataFrame:
    """Returns all words of an image as a table with the columns `COLUMNS`.

    Ordered by patch, layer, lens (as in the reading) and rank (1 is best). ``patch`` is an index in the reading;
    left, top, right, bottom are shares (0..1) of the image. The other columns are those of `word_table`, and if it was
    asked for, `EXPLAINED_COLUMNS` (see `ExplainedReading`), which are NaN for lenses without it.
    """
    tables = [_lens_table(reading, lens) for lens in reading.lenses]
    if not tables:
        return pd.DataFrame(columns=COLUMNS)
    together = pd.concat(tables, ignore_index=True)
    further = EXPLAINED_COLUMNS if any(lens.explained for lens in reading.lenses) else ()
    return together.sort_values(["patch", "layer"], kind="stable", ignore_index=True)[[*COLUMNS, *further]]


def _lens_table(reading: ImageReading, lens: LensReading) -> pd.DataFrame:
    words, patch = word_table(lens, reading.layers)
    views = pd.Series({int(view): name for view, name in reading.views.items()}, dtype=object)
    columns: dict[str, Any] = {
        "patch": patch,
        **dict(zip(_PLACE, reading.places[patch].T, strict=True)),
        "view_name": views.reindex(reading.places[patch, 0]).to_numpy(),
        **dict(zip(_BOX, reading.boxes[patch].T, strict=True)),
    }
    table = pd.DataFrame(columns).join(words)
    if lens.explained is not None:
        at = np.searchsorted(reading.layers, table["layer"]), patch
        table = table.assign(**{name: getattr(lens.explained, name)[at] for name in EXPLAINED_COLUMNS})
    return table


def word_table(lens: LensReading, layers: Sequence[int]) -> tuple[pd.DataFrame, npt.NDArray[np.int64]]:
    """Returns all candidates of a lens, ordered by layer, patch and rank, and the patch, or token, of each line.

    The columns are `WORD_COLUMNS`. ``probability``, ``entropy`` and ``divergence`` (of the whole distribution, in nats,
    see `NextToken`) are NaN for lenses without distributions. ``sentence`` is "" and ``contextual_layer``,
    ``char_start`` and ``char_end`` (the token's characters in the sentence) are missing for lenses without them.
    """
    layer, patch, rank = np.nonzero(lens.which >= 0)
    which = lens.which[layer, patch, rank]
    texts = [(word.text, word.token, word.sentence) for word in lens.words]
    words = pd.DataFrame(texts, columns=["word", "token", "sentence"], dtype=object).iloc[which]
    offsets = np.array([(word.start, word.end) for word in lens.words], np.int32).reshape(-1, 2)[which]
    unmarked = offsets[:, 1] <= offsets[:, 0]
    contexts = np.full(len(which), -1, np.int16)
    if lens.contextual_layers is not None:
        contexts = lens.contextual_layers[layer, patch, rank]
    probabilities, numbers = lens.probabilities, lens.next_token
    missing = np.full(len(which), np.nan, np.float32)
    columns: dict[str, Any] = {
        "layer": np.asarray(layers)[layer],
        "lens": lens.lens,
        "rank": rank + 1,
        **{name: words[name].to_numpy() for name in ("word", "token", "sentence")},
        "score": lens.scores[layer, patch, rank],
        "probability": missing if probabilities is None else probabilities[layer, patch, rank],
        "entropy": missing if numbers is None else numbers.entropies[layer, patch],
        "divergence": missing if numbers is None else numbers.divergences[layer, patch],
        "contextual_layer": pd.arrays.IntegerArray(contexts, contexts < 0),
        "char_start": pd.arrays.IntegerArray(offsets[:, 0].copy(), unmarked),
        "char_end": pd.arrays.IntegerArray(offsets[:, 1].copy(), unmarked),
    }
    return pd.DataFrame(columns)[list(WORD_COLUMNS)], patch
