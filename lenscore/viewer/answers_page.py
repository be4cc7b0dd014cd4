"""The page of answers before and after words were erased from an image's states, or written into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lenscore.readings.lens_titles import title_of
from lenscore.statistics.sources import run_labels
from lenscore.viewer.image_page import TEMPLATES
from storage_layouts.interventions import read_answers, read_edits
from storage_layouts.runs import RunFolder

_SHOWN = 10
"""Passes that are named for one answer; all are in edits.csv."""


def answers_page(label: str, runs: Sequence[RunFolder], images: Mapping[int, tuple[str, str | None]]) -> str | None:
    """Returns the HTML page; None if no run erased or wrote a word on these images.

    Args:
        label: of the model.
        runs: intervene runs on its analyze run.
        images: name and address of the thumbnail (or None) of the images to show, by id.

    """
    shown = []
    for run, run_label in zip(runs, run_labels(runs), strict=True):
        edits, answers = read_edits(run).to_pandas(), read_answers(run).to_pandas()
        for image_id, lines in edits.groupby("image_id"):
            if image_id not in images:
                continue
            name, thumbnail = images[image_id]
            of_image = dict(answers.loc[answers["image_id"] == image_id, ["answer", "text"]].itertuples(index=False))
            shown.append(
                {
                    "image_id": image_id,
                    "name": name,
                    "run": run_label if len(runs) > 1 else "",
                    "thumbnail": thumbnail,
                    "before": of_image[0],
                    "passes": len(lines),
                    "same": int((lines["answer"] == 0).sum()),
                    "lines": _lines(lines[lines["answer"] != 0], of_image),
                }
            )
    return TEMPLATES.get_template("answers.html").render(title=label, images=shown) if shown else None


def _lines(edits: pd.DataFrame, texts: Mapping[int, str]) -> list[dict[str, Any]]:
    """One line for each different answer to a word, with all that led to it; the word's own direction first."""
    found = []
    for (edit, word, _), lines in edits.groupby(["edit", "word", "answer"], sort=False):
        by = [
            f"{title_of(lens)}, layer {layer}, dose {dose:g}" + ("" if direction == "word" else f" ({direction})")
            for lens, layer, dose, direction in zip(
                *(lines[name] for name in ("lens", "layer", "dose", "direction")), strict=True
            )
        ]
        before, now = (bool(lines[name].iloc[0]) for name in ("said_before", "said"))
        turned = "" if before == now else "gained" if now else "lost"
        found.append(
            {
                "edit": edit,
                "word": word,
                "answer": texts[int(lines["answer"].iloc[0])],
                "turned": turned,
                "by": "; ".join(by[:_SHOWN]) + (f"; and {len(by) - _SHOWN} more" if len(by) > _SHOWN else ""),
            }
        )
    return found
