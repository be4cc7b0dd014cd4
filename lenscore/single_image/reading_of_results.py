"""From the engine's results for one image to an `ImageReading`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lenscore.analysis.engine import BatchResults
from lenscore.images.geometry.grids import ImageGeometry
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
    lenses = lens_readings(results.lenses, tokenizer, index)
    bare = bare_reading(image, geometry, layers, name, caption)
    truth = truth_of(image.path, bare.boxes) if image.path is not None else None
    return replace(bare, lenses=lenses, truth=truth)


def bare_reading(
    image: OpenedImage, geometry: ImageGeometry, layers: Sequence[int], name: str, caption: str
) -> ImageReading:
    """Returns an image and its patches, without lenses; the arguments are those of `reading_of`."""
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
        lenses=(),
    )
