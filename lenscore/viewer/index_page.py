"""Contents of the viewer's first page: a grid of models by LLM and vision encoder, other models, ablations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lenscore.readings.lens_titles import title_of
from lenscore.statistics.grid import Grid
from lenscore.statistics.sources import AnalyzeSource
from lenscore.statistics.summary import Summary, left_out_of_means
from lenscore.viewer.example_words import WIDTH, ExampleWords
from lenscore.viewer.model_page import Card
from lenscore.viewer.shown_models import ViewerModel
from lenscore.viewer.summary_sentence import joint_summary_sentence, leading_lens

_THUMBNAILS = 4


def index_context(
    models: Sequence[ViewerModel], written: Sequence[tuple[Sequence[Card], ExampleWords | None]]
) -> dict[str, Any]:
    """Returns the variables of templates/index.html; ``written`` has the images of each model, and words on one."""
    grid = Grid.of([model.source for model in models if model.source])
    shown = {model.run_id: _shown(model, *of_model) for model, of_model in zip(models, written, strict=True)}

    def of(source: AnalyzeSource | None) -> dict[str, Any] | None:
        return shown[source.results.run.run_id] if source else None

    is_grid = len(grid.cells) > 1
    own = [*grid.cells.values(), *grid.others]
    others = [*map(of, grid.others if is_grid else own), *(shown[one.run_id] for one in models if not one.source)]
    ablations = [
        (of(one.source) or {}) | {"change": one.title, "beside": f"{one.llm} × {one.encoder}"} for one in grid.ablations
    ]
    return {
        "seen": joint_summary_sentence([source.judges[0].summary for source in own if source.judges]),
        "models_shown": len(models),
        "any_rates": any(one["rates"] for one in shown.values()),
        "width": WIDTH,
        "left_out": left_out_of_means(
            judge.summary for model in models if model.source for judge in model.source.judges[:1]
        ),
        "encoders": grid.encoders,
        "grid": [(llm, [of(grid.cells.get((llm, encoder))) for encoder in grid.encoders]) for llm in grid.llms]
        if is_grid
        else [],
        "others": others,
        "ablations": ablations,
    }


def _shown(model: ViewerModel, cards: Sequence[Card], example: ExampleWords | None) -> dict[str, Any]:
    judges = model.source.judges if model.source else []
    return {
        "label": model.label,
        "address": f"{model.folder}/index.html",
        "example": example,
        "example_address": example and f"{model.folder}/image.html#{example.image}",
        "judge": judges[0].summary.judge if judges else None,
        "rates": _rates(judges[0].summary) if judges else [],
        "leads": leading_lens(judges[0].summary) if judges else "",
        "lenses": [title_of(lens) for lens in model.readings.lenses],
        "notes": model.notes,
        "images": len(cards),
        "thumbnails": [card.thumbnail for card in cards if card.thumbnail][:_THUMBNAILS],
    }


def _rates(summary: Summary) -> list[dict[str, Any]]:
    """The means over layers of the lenses that were judged."""
    means = [(lens, summary.mean(lens)) for lens in summary.lenses]
    return [{"lens": lens, "title": title_of(lens), "mean": mean} for lens, mean in means if mean.patches]
