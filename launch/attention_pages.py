"""What the attention of an intervene run shows: numbers beside the truth, and a page with the maps of each image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.analyzed_results import results_begun_with
from jobs.intervene_targets import is_background
from jobs.intervene_worker import SAMPLE
from lenscore.readings.image_reading import ImageReading
from lenscore.readings.word_reading import WordReading
from lenscore.statistics.attention_localisation import ObjectPatches, localise
from lenscore.statistics.sources import model_label
from lenscore.user_files.finding import path_from_stored
from lenscore.viewer.browser_pictures import shown_picture
from lenscore.viewer.readings import names_of_images, places_and_boxes
from lenscore.viewer.word_page import word_page
from storage_layouts.files import write_atomic
from storage_layouts.runs import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import pyarrow as pa

_EXPLANATION = "Weight of attention from the place where this token of the answer is predicted to each patch"


def localisation_of(run: RunFolder, attention: pa.Table) -> pd.DataFrame:
    """How much attention goes to the objects of the images; without lines if nobody knows where they are."""
    results = results_begun_with(Path(run.config["results"]), run)
    sample = {image["image_id"]: image for image in json.loads(run.read_plan_file(SAMPLE))["images"]}
    objects: dict[int, list[ObjectPatches]] = {}
    shown: dict[int, np.ndarray] = {}
    for line in results.geometry(image_ids=sorted(set(attention["image_id"].to_pylist()))).to_pylist():
        places, boxes = places_and_boxes(line["patches"])
        numbers = {tuple(place): number for number, place in enumerate(places.tolist())}
        image_id = line["image_id"]
        shown[image_id] = np.asarray((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        objects[image_id] = [
            ObjectPatches(frozenset(found["words"]), _on(numbers, found["patches"]))
            for found in sample[image_id]["objects"]
            if not is_background(found)
        ]
    return localise(attention.to_pandas(), objects, shown)


def _on(numbers: dict[tuple[int, ...], int], patches: list[list[int]]) -> np.ndarray:
    on = np.zeros(len(numbers), np.bool_)
    on[[numbers[tuple(place)] for place in patches]] = True
    return on


def write_pages(run: RunFolder, attention: pa.Table) -> list[Path]:
    """Write a page with the maps of each image; returns their paths."""
    results = results_begun_with(Path(run.config["results"]), run)
    images = {line["image_id"]: line for line in results.images().to_pylist()}
    names = names_of_images({image_id: line["path"] for image_id, line in images.items()})
    maps, written = attention.to_pandas(), []
    for geometry in results.geometry(image_ids=sorted(set(maps["image_id"]))).to_pylist():
        image_id = geometry["image_id"]
        mine = maps[maps["image_id"] == image_id]
        reading = _reading(geometry, images[image_id], names[image_id], sorted(set(mine["layer"])))
        tokens = mine.drop_duplicates("number").sort_values("number")
        words = [f"{number + 1}. {text}" for number, text in zip(tokens["number"], tokens["text"], strict=True)]
        lenses = [_map_of(kind, lines, tokens["text"].tolist()) for kind, lines in mine.groupby("kind", sort=False)]
        page = word_page(reading, words, lenses, model_label(results.run.config["model"]), _EXPLANATION)
        path = run.path / f"attention-{image_id:06d}.html"
        write_atomic(path, page.encode())
        written.append(path)
    return written


def _reading(geometry: dict[str, Any], image: dict[str, Any], name: str, layers: Sequence[int]) -> ImageReading:
    places, boxes = places_and_boxes(geometry["patches"])
    return ImageReading(
        name=name,
        caption=image["caption"] or "",
        width=geometry["width"],
        height=geometry["height"],
        picture=shown_picture(path_from_stored(image["path"]), image["sha256"]),
        views={view["view"]: view["name"] for view in geometry["views"]},
        places=places,
        boxes=boxes,
        layers=tuple(layers),
        lenses=(),
    )


def _map_of(kind: str, lines: pd.DataFrame, tokens: Sequence[str]) -> WordReading:
    """The maps of one kind, as those of a lens."""
    ordered = lines.sort_values(["number", "layer"])
    weights = np.stack(ordered["weights"].tolist()).astype(np.float32)
    weights = weights.reshape(len(tokens), -1, weights.shape[1])
    return WordReading(kind, tuple(tokens), 0, weights, np.zeros(weights.shape, np.int64))
