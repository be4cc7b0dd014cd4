"""The exact truth about a box of a scene, from its pixels and independent of any model's patches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from lenscore.shapes.rendering import object_masks
from lenscore.shapes.scenes import IMAGE_SIZE, Scene, SceneObject
from lenscore.shapes.vocabulary import ADJECTIVES, BACKGROUND_WORDS, NOUNS

Box = tuple[float, float, float, float]
"""left, top, right, bottom, each 0..1 of the image's width or height."""


@dataclass(frozen=True)
class PatchTruth:
    """The object or background that covers most of a box.

    ``share`` is the part of the box (0..1) that it covers. ``aspects`` has the keys ``noun``, ``colour``, ``texture``
    and ``size``; each value has all right words with synonyms and plurals. Texture and size of a background are empty.
    """

    kind: Literal["object", "background"]
    share: float
    aspects: dict[str, frozenset[str]]


def coverage(scene: Scene, box: Box) -> npt.NDArray[np.float64]:
    """Returns the share (0..1) of the box that each object covers: float64 ``[objects]``.

    Pixels on the edge of the box count in proportion. Raises ValueError for a box that is empty or not in the image.
    """
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"box {box}: expected 0 <= left < right <= 1 and 0 <= top < bottom <= 1")
    rows, columns = _pixel_lengths(top, bottom), _pixel_lengths(left, right)
    area = rows.sum() * columns.sum()
    covered: npt.NDArray[np.float64] = np.einsum("r,orc,c->o", rows, object_masks(scene), columns) / area
    return covered


def patch_truth(scene: Scene, box: Box) -> PatchTruth:
    """Returns the object that covers most of the box, or the background if that covers more.

    Raises ValueError for a box that is empty or not inside the image.
    """
    covered = coverage(scene, box)
    background = float(1 - covered.sum())  # objects never overlap
    if len(covered) and covered.max() >= background:
        best = int(covered.argmax())
        return PatchTruth("object", float(covered[best]), object_aspects(scene.objects[best]))
    return PatchTruth("background", background, background_aspects(scene))


def object_aspects(item: SceneObject) -> dict[str, frozenset[str]]:
    """Returns all right words for an object, by aspect."""
    return {
        "noun": NOUNS[item.noun].words,
        "colour": frozenset(ADJECTIVES[item.colour]),
        "texture": frozenset(ADJECTIVES[item.texture]),
        "size": frozenset(ADJECTIVES[item.size]),
    }


def background_aspects(scene: Scene) -> dict[str, frozenset[str]]:
    """Returns all right words for the background, by aspect."""
    return {
        "noun": frozenset(BACKGROUND_WORDS),
        "colour": frozenset(ADJECTIVES[scene.background]),
        "texture": frozenset(),
        "size": frozenset(),
    }


@lru_cache(1 << 12)
def _pixel_lengths(start: float, end: float) -> npt.NDArray[np.float64]:
    """The part of each pixel (0..1) between two positions of the image, along one axis."""
    pixels = np.arange(IMAGE_SIZE)
    return np.clip(np.minimum(end * IMAGE_SIZE, pixels + 1) - np.maximum(start * IMAGE_SIZE, pixels), 0, 1)
