"""The exact truth about a box of a scene, from its pixels and independent of any model's patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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


def coverage(scene: Scene, boxes: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Returns the share (0..1) of each box that each object covers: float64 ``[boxes, objects]``.

    Pixels on the edge of a box count in proportion. ``boxes`` is ``[boxes, 4]``, each as `Box`; raises ValueError if
    one is empty or not in the image.
    """
    left, top, right, bottom = boxes.astype(np.float64).T
    good = (left >= 0) & (left < right) & (right <= 1) & (top >= 0) & (top < bottom) & (bottom <= 1)
    if not good.all():
        box = tuple(boxes[good.argmin()].tolist())
        raise ValueError(f"box {box}: expected 0 <= left < right <= 1 and 0 <= top < bottom <= 1")
    rows, columns = _pixel_lengths(top, bottom), _pixel_lengths(left, right)
    areas = rows.sum(axis=1) * columns.sum(axis=1)
    covered: npt.NDArray[np.float64] = ((rows @ object_masks(scene)) * columns).sum(axis=2) / areas
    return covered.T


def patch_truth(scene: Scene, box: Box) -> PatchTruth:
    """Returns the object that covers most of the box, or the background if that covers more.

    Raises ValueError for a box that is empty or not inside the image.
    """
    return patch_truths(scene, np.array([box]))[0]


def patch_truths(scene: Scene, boxes: npt.NDArray[np.floating[Any]]) -> list[PatchTruth]:
    """Returns what `patch_truth` says of each of some boxes, ``[boxes, 4]``."""
    covered = coverage(scene, boxes)
    objects, background = [object_aspects(item) for item in scene.objects], background_aspects(scene)
    truths = []
    for shares in covered.tolist():
        most, rest = max(shares, default=0.0), 1 - sum(shares)  # objects never overlap
        if shares and most >= rest:
            truths.append(PatchTruth("object", most, objects[shares.index(most)]))
        else:
            truths.append(PatchTruth("background", rest, background))
    return truths


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


def _pixel_lengths(start: npt.NDArray[np.float64], end: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The part of each pixel (0..1) between two positions of the image along one axis, ``[positions, pixels]``."""
    pixels = np.arange(IMAGE_SIZE)
    ends, starts = end[:, None] * IMAGE_SIZE, start[:, None] * IMAGE_SIZE
    return np.clip(np.minimum(ends, pixels + 1) - np.maximum(starts, pixels), 0, 1)
