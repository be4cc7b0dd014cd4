"""A reading of a text as a table: one row per token, layer, lens and rank."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lenscore.readings.image_reading import LensReading
from lenscore.readings.text_reading import TextReading
from lenscore.single_image.reading_table import WORD_COLUMNS, word_table

COLUMNS = ("position", "text", "answer", *WORD_COLUMNS)


def reading_table(reading: TextReading) -> pd.DataFrame:
    """Returns all words of a text as a table with the columns `COLUMNS`.

    Ordered by position, layer, lens (as in the reading) and rank (1 is best). ``position`` counts the model's input
    tokens from 0, ``text`` is the token that the model read there, and ``answer`` whether it is the model's own. The
    other columns are those of `lenscore.single_image.reading_table.word_table`.
    """
    together = pd.concat([_lens_table(reading, lens) for lens in reading.lenses], ignore_index=True)
    return together.sort_values(["position", "layer"], kind="stable", ignore_index=True)[list(COLUMNS)]


def _lens_table(reading: TextReading, lens: LensReading) -> pd.DataFrame:
    words, position = word_table(lens, reading.layers)
    columns = {
        "position": position,
        "text": np.array(reading.tokens, dtype=object)[position],
        "answer": position >= reading.prompt_tokens,
    }
    return pd.DataFrame(columns).join(words)
