"""Where an object is: how much of a patch it covers, and how far inside of it the patch lies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lenscore.judging.patches import Box
from lenscore.judging.truth_files.run_length import Mask

Floats = npt.NDArray[np.float64]

_POINTS = 16
"""The mean distance within a box is taken over so many points on each side."""


class Region(Protocol):
    """A part of an image. Boxes of patches are shares (0..1) of the image's width and height."""

    @property
    def area(self) -> float:
        """Share of the image."""
        ...

    def coverage(self, patches: Floats) -> Floats:
        """The share (0..1) of each patch ``[n, 4]`` that lies in the region: ``[n]``. Parts of pixels count as such."""
        ...

    def edge_distance(self, patch: Box) -> float | None:
        """How far the points of a patch that lie in the region are from its edge: their mean, in sides of the patch.

        A side is the square root of the patch's area. Where the image cuts the region off there is no edge; None if it
        has no other.
        """
        ...


@dataclass(frozen=True)
class BoxRegion:
    """A rectangle in an image of so many pixels; it may reach beyond the image."""

    box: Box
    width: int
    height: int

    @property
    def area(self) -> float:
        """See `Region`."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)

    def coverage(self, patches: Floats) -> Floats:
        """See `Region`."""
        left, top, right, bottom = patches.T
        wide = np.minimum(right, self.box[2]) - np.maximum(left, self.box[0])
        high = np.minimum(bottom, self.box[3]) - np.maximum(top, self.box[1])
        covered: Floats = np.clip(wide, 0, None) * np.clip(high, 0, None) / ((right - left) * (bottom - top))
        return covered

    def edge_distance(self, patch: Box) -> float | None:
        """See `Region`."""
        across, down = (self._to_ends(patch, axis) for axis in (0, 1))
        distances = np.minimum(across, down[:, None])
        return None if np.isinf(distances).any() else float(distances.mean()) / _side(patch, self.width, self.height)

    def _to_ends(self, patch: Box, axis: int) -> Floats:
        """How far points of the patch in the box are from the nearer end along an axis, in pixels."""
        size = (self.width, self.height)[axis]
        first, last = size * self.box[axis], size * self.box[axis + 2]
        start, end = max(size * patch[axis], first), min(size * patch[axis + 2], last)
        points = start + (end - start) * (np.arange(_POINTS) + 0.5) / _POINTS
        # An end within half a pixel of the image's border is where the image ends.
        return np.minimum(
            points - first if first > 0.5 else np.inf, last - points if last < size - 0.5 else np.full(_POINTS, np.inf)
        )


class MaskRegion:
    """The pixels of a mask ``[height, width]`` that covers the whole image."""

    def __init__(self, mask: Mask) -> None:
        self._height, self._width = mask.shape
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        # The object and, where the image has it, a pixel around it: the nearest pixel that is not in it is one of them.
        self._top, self._left = (max(places[0] - 1, 0) if len(places) else 0 for places in (rows, columns))
        self._mask = mask[self._top : rows[-1] + 2, self._left : columns[-1] + 2] if len(rows) else mask[:1, :1]

    @property
    def area(self) -> float:
        """See `Region`."""
        return float(self._mask.sum()) / (self._height * self._width)

    def coverage(self, patches: Floats) -> Floats:
        """See `Region`."""
        areas = (patches[:, 2] - patches[:, 0]) * (patches[:, 3] - patches[:, 1]) * (self._height * self._width)
        return self._sums(self._pixels, patches) / areas

    def edge_distance(self, patch: Box) -> float | None:
        """See `Region`."""
        patches = np.array([patch])
        covered = self._sums(self._pixels, patches)[0]
        if self._distances is None or not covered > 0:
            return None
        return float(self._sums(self._distances, patches)[0] / covered) / _side(patch, self._width, self._height)

    @cached_property
    def _pixels(self) -> Floats:
        return _running_sums(self._mask)

    @cached_property
    def _distances(self) -> Floats | None:
        """Of the distance from the middle of each pixel to the edge; None if all of the image is in the mask."""
        if self._mask.all():
            return None
        from scipy.ndimage import distance_transform_edt

        return _running_sums((distance_transform_edt(self._mask) - 0.5) * self._mask)

    def _sums(self, running: Floats, patches: Floats) -> Floats:
        """What was summed up, in patches ``[n, 4]`` whose ends may lie within pixels."""
        height, width = self._mask.shape
        x = np.clip(patches[:, ::2] * self._width - self._left, 0, width).T
        y = np.clip(patches[:, 1::2] * self._height - self._top, 0, height).T
        total: Floats = _at(running, x[1], y[1]) - _at(running, x[0], y[1])
        return total - _at(running, x[1], y[0]) + _at(running, x[0], y[0])


def _running_sums(values: npt.NDArray[np.generic]) -> Floats:
    """``[height + 1, width + 1]``: the sum of all values above and to the left of each corner of a pixel."""
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    sums[1:, 1:] = values.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    return sums


def _at(running: Floats, x: Floats, y: Floats) -> Floats:
    """Running sums at any place: within a pixel they are bilinear."""
    row, column = (np.clip(place.astype(int), 0, size - 2) for place, size in zip((y, x), running.shape, strict=True))
    down, across = y - row, x - column
    above = running[row, column] * (1 - across) + running[row, column + 1] * across
    below = running[row + 1, column] * (1 - across) + running[row + 1, column + 1] * across
    return above * (1 - down) + below * down


def _side(patch: Box, width: int, height: int) -> float:
    left, top, right, bottom = patch
    return float(np.sqrt((right - left) * width * (bottom - top) * height))
