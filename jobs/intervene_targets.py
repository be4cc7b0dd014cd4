"""What an intervene run changes in an image: patches, objects, what is around them, and background as a control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lenscore.judging.norm_outliers import outlying_patches
from lenscore.judging.patches import ImagePatches, full_patch, patch_rank
from lenscore.statistics.knockouts import BACKGROUND
from lenscore.word_maps.word_truth import NamedPart, WordTruth
from storage_layouts.results import LensResults

SINK_CUT = 3.5
"""Robust standard deviations from the median from which a norm is outlying; see `norm_outliers`."""
_TOUCHED = 1e-3
"""Part of a patch; boxes are stored in float32."""
_NEAR = 0.5
"""Sides of a patch: those that are next to each other are nearer, those with one between them are not."""
_ALIKE = 0.1
"""Views have patches of the same scale if their sides differ by less than this share."""

Chosen = npt.NDArray[np.bool_]


class Targets:
    """Chooses the targets of images.

    Args:
        names: some of `TARGETS`.
        results: have the norms.
        images: the chosen images.
        truth: where their objects are; None if nobody knows.
        cover: the part of a patch that one object has to cover for the patch to be on it.
        seed: of the hashes that choose the background.

    """

    def __init__(
        self,
        names: Sequence[str],
        results: LensResults,
        images: Sequence[ImagePatches],
        truth: WordTruth | None,
        cover: float,
        seed: int,
    ) -> None:
        self._names, self._truth, self._cover, self._seed = names, truth, cover, seed
        self._sinks = frozenset[tuple[int, int, int, int]]()
        if "sinks" in names:
            # Whether the output of the last block was analysed must not change the targets.
            places = [results.layers.index(layer) for layer in results.mean_layers]
            norms = results.norms([image.image_id for image in images])
            self._sinks = outlying_patches(images, norms, SINK_CUT, places)

    def objects(self, image: ImagePatches) -> list[dict[str, Any]]:
        """The named parts of an image with the patches that each covers; parts without a patch are left out."""
        return [
            {"words": sorted(part.words), "patches": _places(image, on), "is_background": part.is_background}
            for part, on in self._parts_with_patches(image)
        ]

    def others(self, image: ImagePatches) -> list[dict[str, Any]]:
        """Surroundings, border and sinks, and the background of each target, as far as they are asked for.

        Each has the name of its kind, a number (that of its object, or 0), and its patches. One without a patch, and a
        background with fewer patches than its target, is left out.
        """
        found: list[tuple[str, int, Chosen]] = []
        for number, (part, on) in enumerate(self._parts_with_patches(image)):
            if part.is_background:
                continue
            if "objects" in self._names:
                found.append(("object", number, on))
            if "surroundings" in self._names:
                found.append(("surrounding", number, _around(image, on)))
        if "border" in self._names:
            found.append(("border", 0, _at_border(image)))
        if "sinks" in self._names:
            found.append(("sink", 0, np.array([place.key in self._sinks for place in image.places])))
        found = [one for one in found if one[2].any()]
        if "background" in self._names:
            found += list(self._backgrounds(image, found))
        return [
            {"target": kind, "number": number, "patches": _places(image, on)}
            for kind, number, on in found
            if kind != "object"  # those have words
        ]

    def _backgrounds(
        self, image: ImagePatches, found: Sequence[tuple[str, int, Chosen]]
    ) -> Iterator[tuple[str, int, Chosen]]:
        """As many patches as each target has, outside of it and of all objects, in the order of their hashes."""
        if self._truth is not None and image.image_id not in self._truth.parts:
            return  # nobody knows where its objects are
        parts = [part for part in self._parts(image) if not part.is_background]
        touched = np.zeros(len(image.places), np.bool_)
        for part in parts:
            touched |= part.coverage(_boxes(image)) > _TOUCHED
        order = sorted(range(len(image.places)), key=lambda i: patch_rank(self._seed, image.places[i]))
        for kind, number, on in found:
            free = [i for i in order if not (on[i] or touched[i])]
            if len(free) >= on.sum():
                chosen = np.zeros(len(on), np.bool_)
                chosen[free[: on.sum()]] = True
                yield f"{kind}{BACKGROUND}", number, chosen

    def _parts(self, image: ImagePatches) -> Sequence[NamedPart]:
        return self._truth.parts.get(image.image_id, ()) if self._truth else ()

    def _parts_with_patches(self, image: ImagePatches) -> Iterator[tuple[NamedPart, Chosen]]:
        boxes = _boxes(image)
        for part in self._parts(image):
            on = part.coverage(boxes) >= self._cover
            if on.any():
                yield part, on


def is_background(described: Mapping[str, Any]) -> bool:
    """Whether an object of the sample is what the truth says of the background."""
    return bool(described.get("is_background"))


def count_targets(image: Mapping[str, Any], names: Sequence[str], knockouts: bool) -> int:
    """The number of targets of an image of the sample whose states are replaced, or to which attention is blocked."""
    objects = [one for one in image["objects"] if not (knockouts and is_background(one))]
    usual = sum(len(some) for name, some in (("patches", image["patches"]), ("objects", objects)) if name in names)
    return usual + len(image.get("others", ())) + ("all" in names)


def _around(image: ImagePatches, on: Chosen) -> Chosen:
    """The patches next to some, also across a corner, in views of the same scale."""
    boxes = _boxes(image)
    sizes = {
        view: full_patch([place.box for place in image.places if place.view == view])
        for view in {place.view for place in image.places}
    }
    sides = np.array([sizes[place.view] for place in image.places])
    found = np.zeros_like(on)
    for i in np.flatnonzero(on):
        alike = (np.abs(sides / sides[i] - 1) < _ALIKE).all(axis=1)
        gaps = np.maximum(boxes[:, :2] - boxes[i, 2:], boxes[i, :2] - boxes[:, 2:]) / sides[i]
        found |= alike & (gaps < _NEAR).all(axis=1)
    return found & ~on


def _at_border(image: ImagePatches) -> Chosen:
    """The patches that touch the border of what all patches show."""
    near = np.abs(_boxes(image) - np.array(image.extent)) < _TOUCHED
    return near.any(axis=1)


def _boxes(image: ImagePatches) -> npt.NDArray[np.float64]:
    return np.array([place.box for place in image.places], np.float64)


def _places(image: ImagePatches, on: Chosen) -> list[list[int]]:
    return [[one.view, one.row, one.col] for one, chosen in zip(image.places, on, strict=True) if chosen]
