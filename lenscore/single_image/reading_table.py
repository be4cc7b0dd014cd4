"""A reading as a table: one line per patch, layer, lens and rank."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lenscore.readings.image_reading import ImageReading, LensReading

_PLACE = ("patch", "view", "view_name", "row", "col", "left", "top", "right", "bottom")
_SAID = ("layer", "lens", "rank", "word", "token", "score", "contextual_layer", "sentence", "char_start", "char_end")
COLUMNS = (*_PLACE, *_SAID)


def reading_table(reading: ImageReading) -> pd.DataFrame:
    """All that the lenses say of an image, columns `COLUMNS`.

    Ordered by patch, layer, lens (as in the reading) and rank (1 is best). ``patch`` is its place in the reading;
    left, top, right, bottom are shares (0..1) of the image. ``sentence`` is "" and ``contextual_layer``, ``char_start``
    and ``char_end`` (the token's characters in the sentence) are missing for lenses that know none.
    """
    tables = [_lens_table(reading, lens, number) for number, lens in enumerate(reading.lenses)]
    if not tables:
        return pd.DataFrame(columns=COLUMNS)
    together = pd.concat(tables, ignore_index=True)
    together = together.sort_values(["patch", "layer", "_lens", "rank"], kind="stable", ignore_index=True)
    return together[list(COLUMNS)]


def _lens_table(reading: ImageReading, lens: LensReading, number: int) -> pd.DataFrame:
    layer, patch, rank = (axis.ravel() for axis in np.indices(lens.which.shape))
    which = lens.which.ravel()
    kept = which >= 0
    layer, patch, rank, which = layer[kept], patch[kept], rank[kept], which[kept]
    place, box = reading.places[patch], reading.boxes[patch]
    views = pd.Series({int(view): name for view, name in reading.views.items()}, dtype=object)
    words = pd.DataFrame(
        [(word.text, word.token, word.sentence) for word in lens.words],
        columns=["word", "token", "sentence"],
        dtype=object,
    ).iloc[which]
    start = np.array([word.start for word in lens.words], np.int32)[which]
    end = np.array([word.end for word in lens.words], np.int32)[which]
    unmarked = end <= start
    contexts = np.full(len(which), -1, np.int16)
    if lens.contextual_layers is not None:
        contexts = lens.contextual_layers.ravel()[kept]
    columns = {
        "patch": patch,
        **{name: place[:, axis] for axis, name in enumerate(("view", "row", "col"))},
        "view_name": views.reindex(place[:, 0]).to_numpy(),
        **{name: box[:, axis] for axis, name in enumerate(("left", "top", "right", "bottom"))},
        "layer": np.asarray(reading.layers)[layer],
        "lens": lens.lens,
        "_lens": number,
        "rank": rank + 1,
        **{name: words[name].to_numpy() for name in ("word", "token", "sentence")},
        "score": lens.scores.ravel()[kept],
        "contextual_layer": pd.arrays.IntegerArray(contexts, contexts < 0),
        "char_start": pd.arrays.IntegerArray(start, unmarked),
        "char_end": pd.arrays.IntegerArray(end, unmarked),
    }
    return pd.DataFrame(columns)
