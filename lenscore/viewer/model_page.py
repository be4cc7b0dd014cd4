"""Contents of the page of one model: rates by layer, layer alignment, image cards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lenscore.readings.lens_titles import title_of
from lenscore.statistics.sources import JudgeSource
from lenscore.statistics.summary import HOW_IT_IS_COUNTED, cells, headings, left_out_of_means, what_is_counted
from lenscore.viewer.layer_map import LayerMap
from lenscore.viewer.rate_chart import rate_chart
from lenscore.viewer.shown_models import ViewerModel
from lenscore.viewer.summary_sentence import summary_sentence


@dataclass(frozen=True)
class Card:
    """An image in a list. ``thumbnail`` is relative to the viewer's folder; ``judged`` counts its judged patches."""

    image_id: int
    name: str
    caption: str
    thumbnail: str | None
    judged: int


def model_context(model: ViewerModel, cards: Sequence[Card], layer_map: LayerMap, example: str) -> dict[str, Any]:
    """Returns the variables of templates/model.html; ``example`` is a word to search for, or ""."""
    readings = model.readings
    judges = model.source.judges if model.source else []
    return {
        "title": model.label,
        "facts": _facts(model),
        "notes": model.notes,
        "example": example,
        "rates": [_rates(judge) for judge in judges],
        "alignment": layer_map.table(),
        "cards": cards,
        "shown": _shown_sentence(model, cards),
        "unreadable": [(readings.names[image_id], error) for image_id, error in sorted(readings.errors.items())],
        "top_k": readings.top_k,
        "any_judged": any(card.judged for card in cards),
    }


def _facts(model: ViewerModel) -> list[tuple[str, str]]:
    """(name, value) for the line below the model's label."""
    readings = model.readings
    return [
        *model.about,
        ("layers", model.source.layers_shown if model.source else ", ".join(map(str, readings.layers))),
        ("lenses", ", ".join(map(title_of, readings.lenses))),
        ("words a patch", f"{readings.top_k} of each lens"),
    ]


def _rates(judge: JudgeSource) -> dict[str, Any]:
    summary = judge.summary
    return {
        "judge": summary.judge,
        "seen": summary_sentence(summary),
        "sentence": f"{what_is_counted(summary)}. {HOW_IT_IS_COUNTED} {left_out_of_means([summary])}".rstrip(),
        "columns": headings(summary),
        "rows": [(layer, cells(summary, layer)) for layer in summary.layers],
        "chart": rate_chart(summary),
    }


def _shown_sentence(model: ViewerModel, cards: Sequence[Card]) -> str:
    readable, shown = len(model.readings.image_ids), len(cards)
    gone = sum(card.thumbnail is None for card in cards)
    sentence = f"{shown} images" if shown == readable else f"{shown} of {readable} images, judged ones first"
    if gone:
        sentence += f"; the files of {gone} are gone or were changed since"
    return sentence + "."
