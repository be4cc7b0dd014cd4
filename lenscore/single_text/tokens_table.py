"""The words of one lens as a table for a terminal: a row per token, a column per layer."""

from __future__ import annotations

import numpy as np
from rich.table import Table
from rich.text import Text

from lenscore.readings.image_reading import LensReading
from lenscore.readings.lens_titles import title_of, unit_of_scores
from lenscore.readings.text_reading import TextReading
from lenscore.reports.parts.drawing import lens_style
from storage_layouts.printable import printable, printable_word

_TOKEN = 14
_WORD = 11
"""Characters of a token and of a word."""
_LIKELY = 0.05
_MARK = "*"
"""Behind the next token, in place of bold."""


def tokens_table(reading: TextReading, lens: LensReading, width: int, styled: bool = True) -> Table:
    """Returns the best word of a lens for every token, at as many layers as fit into ``width`` characters.

    A word in bold, or with ``*`` where no styles are shown (`styled`), is the next token of the text itself; a word of
    a probability below 5 % is dim.
    """
    names = [one.lens for one in reading.lenses]
    shown = fitting_layers(len(reading.layers), max(1, (width - _TOKEN - 10) // (_WORD + 3)))
    title = f"{title_of(lens.lens)}: {unit_of_scores(lens.lens)}"
    left_out = len(reading.layers) - len(shown)
    caption = f"{'bold' if styled else _MARK}: the next token of the text"
    if lens.next_token is not None and styled:
        caption += "; dim: probability below 5 %"
    if left_out:
        caption += f"; {left_out} of {len(reading.layers)} layers do not fit here, the page has them"
    if reading.layer_note:
        caption += f"; {reading.layer_note}"
    table = Table(
        title=Text(f"{printable(reading.name)} · {title}"),
        title_style=f"bold {lens_style(lens.lens, names)[0]}",
        caption=caption,
    )
    table.add_column("", justify="right", style="dim")
    table.add_column("token", no_wrap=True)
    for place in shown:
        table.add_column(str(reading.layers[place]), no_wrap=True)
    shares = lens.probabilities
    is_unlikely = np.zeros(lens.which.shape[:2], bool) if shares is None else shares[..., 0] < _LIKELY
    for position, token in enumerate(reading.tokens):
        following = next(iter(reading.token_ids[position + 1 : position + 2]), None)
        words = [_word(lens, place, position, following, bool(is_unlikely[place, position]), styled) for place in shown]
        style = "italic" if position >= reading.prompt_tokens else ""
        table.add_row(str(position), Text(_cut(printable_word(token), _TOKEN), style=style), *words)
    return table


def fitting_layers(layers: int, most: int) -> list[int]:
    """Returns the places of at most ``most`` of the layers, evenly spread, the last one among them."""
    return sorted({layers - 1 - int(place) for place in np.linspace(0, layers - 1, min(most, layers))})


def _word(lens: LensReading, layer: int, position: int, following: int | None, is_unlikely: bool, styled: bool) -> Text:
    best = int(lens.which[layer, position, 0])
    if best < 0:
        return Text("–")
    is_next = lens.words[best].token_id == following
    text = printable_word(lens.words[best].text)
    if is_next and not styled:
        return Text(_cut(text, _WORD - 1) + _MARK)
    return Text(_cut(text, _WORD), style="bold" if is_next else "dim" if is_unlikely else "")


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
