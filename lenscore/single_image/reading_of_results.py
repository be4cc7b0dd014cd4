"""From the engine's results for one image to an `ImageReading`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lenscore.analysis.engine import BatchResults
from lenscore.index.contextual_index import ContextualIndex
from lenscore.readings.image_reading import ImageReading
from lenscore.readings.words import encodable
from lenscore.single_image.image_source import OpenedImage
from lenscore.single_image.lens_readings import lens_readings
from lenscore.viewer.readings import places_and_boxes
from lenscore.viewer.scene_truth import truth_of


def reading_of(
    image: OpenedImage,
    results: BatchResults,
    layers: Sequence[int],
    tokenizer: Any,
    index: ContextualIndex | None,
    name: str,
    caption: str,
) -> ImageReading:
    """Returns the reading of the only image of a batch.

    Args:
        image: the image.
        results: the batch.
        layers: its visual layers.
        tokenizer: of the model.
        index: the contextual embeddings that lenses over a store searched; None if there was no such lens.
        name: the image's name.
        caption: the image's caption; "" for none.

    """
    (geometry,) = results.geometries
    places, boxes = places_and_boxes([vars(patch) for patch in geometry.patches])
    return ImageReading(
        name=encodable(name),
        caption=encodable(caption),
        width=geometry.width,
        height=geometry.height,
        picture=image.picture(),
        views={view.view: view.name for view in geometry.views},
        places=places,
        boxes=boxes,
        layers=tuple(layers),
        lenses=lens_readings(results.lenses, tokenizer, index),
        truth=truth_of(image.path, boxes) if image.path is not None else None,
    )
