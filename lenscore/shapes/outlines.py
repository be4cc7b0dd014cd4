"""The outline of every noun, as exact area: which share of each pixel it covers.

Outlines are in the square -1..1 (x to the right, y downwards) and are made of polygons and ellipses, some added and
some cut out. A pixel's share is counted at 4 x 4 points, so it is a multiple of 1/16 and the same on every machine. No
drawing library is used, because its rounding may change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

POINTS_PER_PIXEL = 16
_POINTS_PER_SIDE = 4

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Polygon:
    """A simple polygon given by its corners in order."""

    corners: tuple[tuple[float, float], ...]

    def contains(self, x: Array, y: Array) -> Mask:
        """Returns which points are inside (even-odd rule)."""
        inside = np.zeros(np.broadcast(x, y).shape, dtype=bool)
        for (x0, y0), (x1, y1) in zip(self.corners, self.corners[1:] + self.corners[:1], strict=True):
            if y0 == y1:
                continue  # a horizontal edge crosses no horizontal ray
            crosses = (y0 > y) != (y1 > y)
            inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
        return inside


@dataclass(frozen=True)
class Ellipse:
    """An ellipse with axes along x and y."""

    x: float
    y: float
    radius_x: float
    radius_y: float

    def contains(self, x: Array, y: Array) -> Mask:
        """Returns which points are inside or on the edge."""
        return ((x - self.x) / self.radius_x) ** 2 + ((y - self.y) / self.radius_y) ** 2 <= 1


@dataclass(frozen=True)
class Outline:
    """The union of ``parts`` without the union of ``holes``."""

    parts: tuple[Polygon | Ellipse, ...]
    holes: tuple[Polygon | Ellipse, ...] = ()

    def contains(self, x: Array, y: Array) -> Mask:
        """Returns which points belong to the object."""
        inside = np.any([part.contains(x, y) for part in self.parts], axis=0)
        for hole in self.holes:
            inside &= ~hole.contains(x, y)
        return inside


def _polygon(*corners: tuple[float, float]) -> Polygon:
    return Polygon(corners)


def _rectangle(left: float, top: float, right: float, bottom: float) -> Polygon:
    return _polygon((left, top), (right, top), (right, bottom), (left, bottom))


def _around(radii: Sequence[float], start_degrees: float) -> Polygon:
    """Corners at equal angles; rounded, because sines differ between machines."""
    angles = [math.radians(start_degrees + 360 * i / len(radii)) for i in range(len(radii))]
    corners = [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]
    return Polygon(tuple((round(x, 3), round(y, 3)) for x, y in corners))


def _heart() -> Polygon:
    corners = []
    for i in range(60):
        a = 2 * math.pi * i / 60
        height = (13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16
        corners.append((round(math.sin(a) ** 3, 3), round(-height - 0.1, 3)))
    return Polygon(tuple(corners))


# fmt: off
OUTLINES: dict[str, Outline] = {
    "circle": Outline((Ellipse(0, 0, 0.95, 0.95),)),
    "square": Outline((_rectangle(-0.85, -0.85, 0.85, 0.85),)),
    "triangle": Outline((_polygon((0, -0.95), (0.98, 0.85), (-0.98, 0.85)),)),
    "star": Outline((_around((1, 0.42) * 5, -90),)),
    "heart": Outline((_heart(),)),
    "cross": Outline((_rectangle(-0.33, -1, 0.33, 1), _rectangle(-1, -0.33, 1, 0.33))),
    "ring": Outline((Ellipse(0, 0, 1, 1),), holes=(Ellipse(0, 0, 0.5, 0.5),)),
    "diamond": Outline((_polygon((0, -1), (0.7, 0), (0, 1), (-0.7, 0)),)),
    "moon": Outline((Ellipse(0, 0, 1, 1),), holes=(Ellipse(0.575, -0.075, 0.925, 0.925),)),
    "arrow": Outline((_rectangle(-1, -0.3, 0.15, 0.3), _polygon((0.1, -0.85), (1, 0), (0.1, 0.85)))),
    "hexagon": Outline((_around((1,) * 6, 0),)),
    "drop": Outline((Ellipse(0, 0.3, 0.7, 0.7), _polygon((0, -1), (0.62, 0.05), (-0.62, 0.05)))),
    "bolt": Outline((_polygon((0.15, -1), (-0.7, 0.2), (-0.1, 0.2), (-0.3, 1),
                              (0.7, -0.3), (0.1, -0.3), (0.5, -1)),)),
    "house": Outline((_polygon((0, -1), (1, -0.1), (-1, -0.1)), _rectangle(-0.75, -0.15, 0.75, 0.95)),
                     holes=(_rectangle(-0.2, 0.3, 0.2, 1),)),
    "tree": Outline((_polygon((0, -1), (0.6, -0.2), (-0.6, -0.2)),
                     _polygon((0, -0.6), (0.9, 0.5), (-0.9, 0.5)), _rectangle(-0.2, 0.4, 0.2, 1))),
    "fish": Outline((Ellipse(-0.25, 0, 0.75, 0.6), _polygon((0.25, 0), (1, -0.65), (1, 0.65))),
                    holes=(Ellipse(-0.62, -0.12, 0.13, 0.13),)),
    "cup": Outline((_polygon((-0.9, -0.8), (0.6, -0.8), (0.4, 0.9), (-0.7, 0.9)), Ellipse(0.6, 0, 0.4, 0.5)),
                   holes=(Ellipse(0.66, 0, 0.16, 0.26),)),
    "key": Outline((Ellipse(-0.5, -0.05, 0.5, 0.5), _rectangle(-0.1, -0.22, 1, 0.12),
                    _rectangle(0.4, 0, 0.58, 0.5), _rectangle(0.75, 0, 0.95, 0.5)),
                   holes=(Ellipse(-0.5, -0.05, 0.19, 0.2),)),
    "flag": Outline((_rectangle(-0.9, -1, -0.6, 1),
                     _polygon((-0.9, -1), (0.95, -0.75), (0.95, 0.15), (-0.9, 0.1)))),
    "mushroom": Outline((_rectangle(-0.33, -0.1, 0.33, 0.95), Ellipse(0, 0, 1, 0.95)),
                        holes=(_rectangle(-1, 0, -0.33, 1), _rectangle(0.33, 0, 1, 1))),
}
# fmt: on


@lru_cache(maxsize=256)
def pixel_mask(noun: str, side: int) -> npt.NDArray[np.int64]:
    """Returns how many of a pixel's 16 points the object covers: int64 ``[side, side]``, read-only."""
    points = (np.arange(side * _POINTS_PER_SIDE) + 0.5) / (side * _POINTS_PER_SIDE) * 2 - 1
    inside = OUTLINES[noun].contains(points[None, :], points[:, None])
    blocks = inside.reshape(side, _POINTS_PER_SIDE, side, _POINTS_PER_SIDE)
    mask: npt.NDArray[np.int64] = blocks.sum(axis=(1, 3), dtype=np.int64)
    mask.setflags(write=False)
    return mask
