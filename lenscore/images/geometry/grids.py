"""Views, patches and boxes: from grids of cells in processed pixels to places on the original image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lenscore.models.loading import Vlm
from storage_layouts.errors import InputError


@dataclass(frozen=True)
class View:
    """One rendering of the image that the model sees: the whole image, or a tile. A grid of rows x cols patches."""

    view: int
    name: str
    rows: int
    cols: int


@dataclass(frozen=True)
class Patch:
    """One visual token: its position in the LLM's input, its view and cell, and its box on the original image.

    left, top, right, bottom are shares of the original width and height in 0..1. What the processor added as padding
    is outside the image, so a patch that shows nothing but padding has a box of no area.
    """

    position: int
    view: int
    row: int
    col: int
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class ImageGeometry:
    """The visual tokens of one image, in the order of the LLM's input; width and height are original pixels."""

    width: int
    height: int
    views: tuple[View, ...]
    patches: tuple[Patch, ...]


@dataclass(frozen=True)
class ProcessedImage:
    """One image as the processor prepared it: row `index` of the batch `inputs`.

    `size` is the original (width, height); `positions` are the image positions of its row, in order.
    """

    vlm: Vlm
    inputs: Any
    index: int
    size: tuple[int, int]
    positions: Sequence[int]

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.vlm.model.config

    @property
    def settings(self) -> Any:
        """The image processor, whose attributes are its settings."""
        return self.vlm.processor.image_processor


Span = tuple[float, float]
"""Where a row or column of cells begins and ends on the original image, as shares of its height or width."""


@dataclass(frozen=True)
class Axis:
    """One axis of the processor's work: processed = original * scale + shift, both in pixels."""

    original: int
    scale: float
    shift: float = 0.0

    @classmethod
    def resized(cls, original: int, processed: int) -> Axis:
        """All of the image, resized to `processed` pixels."""
        return cls(original, processed / original)

    def share(self, processed: float) -> float:
        """Where a processed pixel edge lies on the original, as a share of its length, cut to 0..1."""
        return min(max((processed - self.shift) / self.scale / self.original, 0.0), 1.0)

    def span(self, begin: float, end: float) -> Span:
        """Where the processed pixels begin..end lie on the original."""
        return self.share(begin), self.share(end)

    def cells(self, count: int, pixels: float) -> list[Span]:
        """`count` cells of so many processed pixels each, from the first pixel on."""
        return [self.span(k * pixels, (k + 1) * pixels) for k in range(count)]


def even(count: int) -> list[Span]:
    """`count` equal cells over the whole image, whatever it was resized to."""
    return [(k / count, (k + 1) / count) for k in range(count)]


@dataclass(frozen=True)
class Grid:
    """The patches of one view in row-major order: where its rows and columns lie on the original image.

    `before` image positions stand before the first patch, `after_row` behind each row: tokens that look at no place
    of their own, such as a class token or a newline.
    """

    name: str
    down: Sequence[Span]
    across: Sequence[Span]
    before: int = 0
    after_row: int = 0

    @property
    def tokens(self) -> int:
        """How many image positions the view takes."""
        return self.before + len(self.down) * (len(self.across) + self.after_row)


def place(grids: Sequence[Grid], image: ProcessedImage) -> ImageGeometry:
    """Give each cell of the grids its image position, in order.

    Raises InputError if the grids do not take exactly the image positions that there are.
    """
    if sum(grid.tokens for grid in grids) != len(image.positions):
        shapes = ", ".join(f"{grid.name} {len(grid.down)} x {len(grid.across)}" for grid in grids)
        raise InputError(
            f"--model {image.vlm.name}: {len(image.positions)} visual tokens for grids of {shapes} patches "
            f"({sum(grid.tokens for grid in grids)} tokens); expected one token a patch (does its processor, with its "
            "patch_size and number of image tokens, belong to this model?)"
        )
    patches, first = [], 0
    for view, grid in enumerate(grids):
        for row, (top, bottom) in enumerate(grid.down):
            start = first + grid.before + row * (len(grid.across) + grid.after_row)
            for col, (left, right) in enumerate(grid.across):
                patches.append(Patch(image.positions[start + col], view, row, col, left, top, right, bottom))
        first += grid.tokens
    views = tuple(View(view, grid.name, len(grid.down), len(grid.across)) for view, grid in enumerate(grids))
    return ImageGeometry(*image.size, views, tuple(patches))
