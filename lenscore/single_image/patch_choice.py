"""The patches of an image to show: sampled by a hash of seed and image and spread over it, or named by place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lenscore.judging.patches import ImagePatches, PatchRef, patch_rank, whole_patches
from lenscore.readings.image_reading import ImageReading
from storage_layouts.errors import InputError

_GLOBAL = "global"


PatchChoice = int | str | Sequence[tuple[int, ...]]
"""The number of patches to sample, or places as "3,5;0,7" or [(3, 5), (0, 7)]: row, column, or view, row, column."""


def chosen_patches(reading: ImageReading, sha256: str, choice: PatchChoice = 4, seed: int = 0) -> tuple[int, ...]:
    """Returns the indices in ``reading.places`` of the patches to show.

    Raises InputError for a number below 1, and for a place that is not in the image.
    """
    if not isinstance(choice, (int, np.integer, str)):
        choice = ";".join(",".join(map(str, place)) for place in choice)
    index_of = {tuple(place): index for index, place in enumerate(reading.places.tolist())}
    if not re.fullmatch(r"\s*[+-]?\d+\s*", str(choice)):
        return _named(reading, str(choice), index_of)
    if int(choice) < 1:
        raise InputError(f"--patches: found {int(choice)}, expected at least 1, or places as in 3,5;0,7 (row,column)")
    return tuple(sorted(index_of[one.view, one.row, one.col] for one in _sampled(reading, sha256, int(choice), seed)))


def places_in_all(readings: Sequence[ImageReading], patches: Sequence[int]) -> list[tuple[int, ...]]:
    """Returns, for each reading of one image, the patches at the places of these patches of the first reading.

    A place is the middle of a patch, and each model has a patch of its own there, in its overview. Places that a model
    does not see are left out of all.
    """
    first, *others = readings
    boxes = first.boxes[list(patches)].astype(np.float64)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    under = [list(patches), *(_under(other, middles) for other in others)]
    common = [found for found in zip(*under, strict=True) if -1 not in found]
    return [tuple(of_reading) for of_reading in zip(*common, strict=True)] or [() for _ in readings]


def _under(reading: ImageReading, points: npt.NDArray[np.float64]) -> list[int]:
    """The patch of the overview at each point (shares of the image), or -1."""
    inside = (reading.boxes[:, :2] <= points[:, None]) & (points[:, None] < reading.boxes[:, 2:])
    found = inside.all(axis=2) & (reading.places[:, 0] == _overview(reading))
    return np.where(found.any(axis=1), found.argmax(axis=1), -1).tolist()


def _sampled(reading: ImageReading, sha256: str, count: int, seed: int) -> list[PatchRef]:
    """At most ``count`` patches of one view, far from one another and not on padding.

    They are taken in the order in which a judge of the same seed takes them; patches too close to an earlier one are
    taken last.
    """
    view = _overview(reading)
    lines = zip(reading.places.tolist(), reading.boxes.tolist(), strict=True)
    places = [PatchRef(0, sha256, view, row, col, tuple(box)) for (of, row, col), box in lines if of == view]
    whole = whole_patches(ImagePatches(0, reading.name, sha256, tuple(p for p in places if _has_area(p)))) or places
    if count >= len(whole):
        return whole
    ranked = sorted(whole, key=lambda place: patch_rank(seed, place))
    size = np.array([reading.width, reading.height])
    middles = np.array([size * (place.box[0] + place.box[2], place.box[1] + place.box[3]) / 2 for place in ranked])
    apart = 0.75 * float(np.sqrt(size.prod() / count))  # a little less than on an even lattice; then less and less
    taken: list[int] = []
    while len(taken) < count:
        for one in range(len(ranked)):
            far = not taken or np.linalg.norm(middles[taken] - middles[one], axis=1).min() >= apart
            if one not in taken and far and len(taken) < count:
                taken.append(one)
        apart = apart * 0.8 if apart > 1e-3 else 0.0
    return [ranked[one] for one in taken]


def _named(reading: ImageReading, choice: str, index_of: Mapping[tuple[int, ...], int]) -> tuple[int, ...]:
    found = []
    for part in (part.strip() for part in choice.split(";")):
        if not re.fullmatch(r"\d+\s*,\s*\d+(\s*,\s*\d+)?", part):
            raise InputError(
                f"--patches: {part!r} is not a place; expected row,column or view,row,column as in 3,5;0,7"
            )
        numbers = tuple(int(number) for number in part.split(","))
        where = numbers if len(numbers) == 3 else (_only_view(reading, part), *numbers)
        if where not in index_of:
            rows, cols = reading.places[reading.places[:, 0] == where[0]][:, 1:].max(axis=0, initial=-1) + 1
            has = f"rows 0 to {rows - 1} and columns 0 to {cols - 1}" if rows else "no patches"
            raise InputError(f"--patches {part}: view {where[0]} of this image has {has}")
        found.append(index_of[where])
    return tuple(dict.fromkeys(found))


def _only_view(reading: ImageReading, part: str) -> int:
    views = sorted(reading.views)
    named = [view for view in views if reading.views[view] == _GLOBAL] or views
    if len(named) > 1:
        have = ", ".join(f"{view} ({reading.views[view]})" for view in views)
        raise InputError(f"--patches {part}: name a view, as in 0,{part}; this image has {have}")
    return named[0] if named else 0


def _overview(reading: ImageReading) -> int:
    """The view named "global", or else the view whose patches cover most of the image."""
    for view, name in reading.views.items():
        if name == _GLOBAL:
            return view
    areas = (reading.boxes[:, 2] - reading.boxes[:, 0]) * (reading.boxes[:, 3] - reading.boxes[:, 1])
    covered = {view: float(areas[reading.places[:, 0] == view].sum()) for view in sorted(reading.views)}
    return max(covered, key=lambda view: covered[view], default=0)


def _has_area(place: PatchRef) -> bool:
    left, top, right, bottom = place.box
    return right > left and bottom > top


def placed(reading: ImageReading, patches: Sequence[int]) -> bool:
    """Returns whether the positions of these patches are known: not all patches of a view have the same box."""
    views = set(reading.places[list(patches), 0].tolist())
    boxes_of = (reading.boxes[reading.places[:, 0] == view] for view in views)
    return not any(len(boxes) > 1 and (boxes == boxes[0]).all() for boxes in boxes_of)
