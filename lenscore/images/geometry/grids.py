"""Views, patches and boxes: from grids of cells in processed pixels to boxes on the original image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lenscore.models.loading import Vlm
from storage_layouts.errors import InputError


@dataclass(frozen=True)
class View:
    """One rendering of the image for the model (the whole image, or a tile): a grid of rows x cols patches."""

    view: int
    name: str
    rows: int
    cols: int


@dataclass(frozen=True)
class Patch:
    """One visual token: its position in the LLM's input, its view and cell, and its box on the original image.

    left, top, right, bottom are shares of the original width and height in 0..1. Padding is outside the image, so a
    patch that shows only padding has a box without area.
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
        """The image processor; its attributes are its settings."""
        return self.vlm.processor.image_processor

    def view_tags(self, row: int | None = None) -> list[str]:
        """The tokens before the views, where other tokens separate them; `row` is another image of the batch."""
        ids = self.inputs["input_ids"][self.index if row is None else row].tolist()
        image = self.config.image_token_id
        starts = [before for before, token in pairwise([0, *ids]) if token == image != before]
        return list(self.vlm.tokenizer.convert_ids_to_tokens(starts))


Span = tuple[float, float]
"""Start and end of a row or column of cells on the original image, as shares of its height or width."""


@dataclass(frozen=True)
class Axis:
    """One axis of the processing: processed = original * scale + shift, both in pixels."""

    original: int
    scale: float
    shift: float = 0.0

    @classmethod
    def resized(cls, original: int, tile: int, index: int = 0, tiles: int = 1) -> Axis:
        """Tile `index` of the image, resized to `tiles` tiles of `tile` pixels each; by default the whole image."""
        return cls(original, tile * tiles / original, -float(index * tile))

    def share(self, processed: float) -> float:
        """A processed pixel edge as a share of the original length, clipped to 0..1."""
        return min(max((processed - self.shift) / self.scale / self.original, 0.0), 1.0)

    def span(self, begin: float, end: float) -> Span:
        """The processed pixels begin..end on the original."""
        return self.share(begin), self.share(end)

    def cells(self, count: int, pixels: float) -> list[Span]:
        """`count` cells of `pixels` processed pixels each, from the first pixel on."""
        return [self.span(k * pixels, (k + 1) * pixels) for k in range(count)]


def even(count: int) -> list[Span]:
    """`count` equal cells over the whole image."""
    return [(k / count, (k + 1) / count) for k in range(count)]


@dataclass(frozen=True)
class Grid:
    """The patches of one view in row-major order: its rows and columns on the original image.

    `before` and `after_row` are the numbers of image positions without a patch before the first patch and after each
    row, such as a class token or a newline.
    """

    name: str
    down: Sequence[Span]
    across: Sequence[Span]
    before: int = 0
    after_row: int = 0

    @property
    def tokens(self) -> int:
        """Number of image positions of the view."""
        return self.before + len(self.down) * (len(self.across) + self.after_row)


def tile_grids(
    image: ProcessedImage,
    tiles: Sequence[tuple[int, int] | None],
    shape: tuple[int, int],
    side: tuple[int, int],
    cell: tuple[int, int],
) -> list[Grid]:
    """Grids of an image that is resized to `shape` (rows, columns) of tiles of `side` (height, width) pixels.

    `tiles` are the (row, column) of each tile, or None for the whole image in one tile; `cell` is the (height, width)
    of a patch in pixels.
    """
    width, height = image.size
    grids = []
    for number, tile in enumerate(tiles, start=1):
        (row, col), (rows, cols) = (tile, shape) if tile else ((0, 0), (1, 1))
        down = Axis.resized(height, side[0], row, rows).cells(side[0] // cell[0], cell[0])
        across = Axis.resized(width, side[1], col, cols).cells(side[1] // cell[1], cell[1])
        grids.append(Grid(f"tile {number}" if tile else "global", down, across))
    return grids


def place(grids: Sequence[Grid], image: ProcessedImage) -> ImageGeometry:
    """Assign the image positions to the cells of the grids, in order. Raises InputError if their numbers differ."""
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
