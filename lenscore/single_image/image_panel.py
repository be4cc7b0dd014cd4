"""The image in a figure: with its grid, with numbered patches, and close crops of these. All lengths are inches."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from PIL import Image

from lenscore.readings.image_reading import ImageReading
from lenscore.single_image.style import FAINT, SMALL_POINTS
from lenscore.single_image.text_layout import Run, draw_line

RADIUS = 0.068
"""Of the disc behind a number."""
_CROP_PATCHES = 3
"""A crop shows so many patches on a side."""
_PIXELATED_UP_TO = 256
"""Pixels of the longer side up to which an image keeps its sharp pixels."""

Box = tuple[float, float, float, float]
"""left, top, width, height on the figure, from its upper left corner."""


def opened(reading: ImageReading) -> Image.Image | None:
    """Returns the pixels of a reading's picture, or None."""
    if reading.picture is None:
        return None
    with Image.open(io.BytesIO(reading.picture.data)) as picture:
        return picture.convert("RGB")


def panel_size(reading: ImageReading, width: float, tallest: float) -> tuple[float, float]:
    """Returns width and height of the image, at most ``width`` and ``tallest``."""
    height = width * reading.height / reading.width
    if height > tallest:
        width, height = width * tallest / height, tallest
    return max(width, 0.1), max(height, 0.1)


def draw_image(figure: Figure, pixels: Image.Image | None, reading: ImageReading, box: Box) -> None:
    """Draw the image, or a grey field with a note if it is missing."""
    _show(_axes(figure, box, reading), pixels, reading)
    if pixels is None:
        left, top, width, height = box
        note = Run("the image is gone", FAINT, points=SMALL_POINTS)
        draw_line(figure, (note,), left + (width - note.width) / 2, top + height / 2)


def draw_patches(figure: Figure, reading: ImageReading, patches: Sequence[int], box: Box) -> None:
    """Draw the grid of the first patch's view, the outlines of the patches, and their numbers from 1 on."""
    axes = _axes(figure, box, reading)
    axes.patch.set_alpha(0)
    size = np.array([reading.width, reading.height] * 2)
    cells = reading.boxes[reading.places[:, 0] == reading.places[patches[0], 0]] * size
    seen = cells[(cells[:, 2] > cells[:, 0]) & (cells[:, 3] > cells[:, 1])]
    corners = np.stack([seen[:, [0, 1]], seen[:, [2, 1]], seen[:, [2, 3]], seen[:, [0, 3]]], axis=1)
    for colour, alpha, line in (("black", 0.3, 0.5), ("white", 0.45, 0.25)):
        axes.add_collection(
            PolyCollection(list(corners), facecolors="none", edgecolors=colour, alpha=alpha, linewidths=line)
        )
    for patch in patches:
        _outline(axes, reading.boxes[patch] * size)
    left, top, width, height = box
    for number, patch in enumerate(patches, 1):
        first_x, first_y, last_x, last_y = reading.boxes[patch].tolist()
        x = left + _beside(first_x * width, last_x * width, width)
        draw_number(figure, number, x, top + _beside(first_y * height, last_y * height, height))


def _beside(begin: float, end: float, length: float) -> float:
    """Position of a number along one axis of the image: on the patch's first edge, or before a small patch.

    If there is no room before the patch, the number is behind it.
    """
    away = 0.8 * RADIUS if end - begin < 3 * RADIUS else 0.0
    place = begin - away if begin - away >= RADIUS else end + away if away else begin
    return min(max(place, RADIUS), length - RADIUS)


def draw_crop(figure: Figure, pixels: Image.Image | None, reading: ImageReading, patch: int, box: Box) -> None:
    """Draw a square around one patch, with the patch outlined."""
    axes = _axes(figure, box, reading)
    _show(axes, pixels, reading)
    left, top, right, bottom = reading.boxes[patch] * np.array([reading.width, reading.height] * 2)
    side = min(_CROP_PATCHES * max(right - left, bottom - top), reading.width, reading.height)
    x = min(max((left + right) / 2, side / 2), reading.width - side / 2)
    y = min(max((top + bottom) / 2, side / 2), reading.height - side / 2)
    axes.set_xlim(x - side / 2, x + side / 2)
    axes.set_ylim(y + side / 2, y - side / 2)
    _outline(axes, np.array([left, top, right, bottom]))


def draw_number(figure: Figure, number: int, x: float, y: float) -> None:
    """Draw a number in white on a black disc around a point."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes(
        ((x - RADIUS) / width, 1 - (y + RADIUS) / height, 2 * RADIUS / width, 2 * RADIUS / height), zorder=5
    )
    axes.set_axis_off()
    axes.set_xlim(-1.12, 1.12)
    axes.set_ylim(-1.12, 1.12)
    axes.add_patch(Circle((0, 0), 1, facecolor="black", edgecolor="white", linewidth=0.5))
    axes.text(
        0,
        -0.04,
        str(number),
        color="white",
        fontsize=5.5 if number < 10 else 4.5,
        fontweight="bold",
        family="DejaVu Sans",
        ha="center",
        va="center_baseline",
    )


def _axes(figure: Figure, box: Box, reading: ImageReading) -> Axes:
    """Axes in pixels of the original image that fill a box."""
    left, top, width, height = box
    wide, high = figure.get_size_inches()
    axes = figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))
    axes.set_xlim(0, reading.width)
    axes.set_ylim(reading.height, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _show(axes: Axes, pixels: Image.Image | None, reading: ImageReading) -> None:
    if pixels is None:
        axes.set_facecolor("#e8e8e8")
        return
    sharp = max(reading.width, reading.height) <= _PIXELATED_UP_TO
    axes.imshow(
        np.asarray(pixels),
        extent=(0, reading.width, reading.height, 0),
        interpolation="nearest" if sharp else "antialiased",
        aspect="auto",
    )
    axes.set_xlim(0, reading.width)
    axes.set_ylim(reading.height, 0)


def _outline(axes: Axes, box: np.ndarray) -> None:
    left, top, right, bottom = box.tolist()
    for colour, line in (("white", 1.6), ("black", 0.7)):
        rectangle = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=line)
        rectangle.set_clip_on(False)
        axes.add_patch(rectangle)
