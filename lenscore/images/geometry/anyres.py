"""LLaVA-NeXT and LLaVA-OneVision: the squashed image, then one stitched grid of tiles without padding."""

from __future__ import annotations

from math import ceil, sqrt

from lenscore.images.geometry.grids import Axis, Grid, ProcessedImage, Span
from storage_layouts.errors import InputError


def anyres_grids(image: ProcessedImage) -> list[Grid]:
    """The base view, and the tiles with a newline after each row.

    The processor resizes the image into the best of its resolutions, centres it on that canvas, and cuts tiles. The
    model stitches their features, removes whole cells of padding on both sides, and (OneVision) shrinks a grid that is
    too large.
    """
    from transformers.image_processing_utils import select_best_resolution  # loads code for images

    tile = image.inputs["pixel_values"].shape[-1]
    _require_plain_tiles(image, tile)
    patch = image.config.vision_config.patch_size
    cells = tile // patch
    width, height = image.size
    canvas_height, canvas_width = select_best_resolution((height, width), image.settings.image_grid_pinpoints)
    rows, cols = canvas_height // tile * cells, canvas_width // tile * cells
    down, across = _axes(image.size, (canvas_width, canvas_height))
    cut_rows = cut_cols = 0
    if width / height > cols / rows:
        cut_rows = (rows - int(round(height * (cols / width), 7))) // 2
    else:
        cut_cols = (cols - int(round(width * (rows / height), 7))) // 2
    shrink = _shrink(image, rows - 2 * cut_rows, cols - 2 * cut_cols, cells)
    return [
        Grid("global", _base(height, tile, patch), _base(width, tile, patch)),
        Grid(
            "tiles",
            _stitched(down, cut_rows, rows - cut_rows, shrink, tile, patch),
            _stitched(across, cut_cols, cols - cut_cols, shrink, tile, patch),
            after_row=1,
        ),
    ]


def _base(length: int, tile: int, patch: int) -> list[Span]:
    return Axis.resized(length, tile).cells(tile // patch, patch)


def _axes(size: tuple[int, int], canvas: tuple[int, int]) -> tuple[Axis, Axis]:
    """Vertical and horizontal axis of the image, fitted into the canvas and centred, rounded as in transformers."""
    (width, height), (full_width, full_height) = size, canvas
    scale_across, scale_down = full_width / width, full_height / height
    if scale_across < scale_down:
        new_width, new_height = full_width, min(ceil(height * scale_across), full_height)
    else:
        new_width, new_height = min(ceil(width * scale_down), full_width), full_height
    return (
        Axis(height, new_height / height, (full_height - new_height) // 2),
        Axis(width, new_width / width, (full_width - new_width) // 2),
    )


def _stitched(axis: Axis, first: int, stop: int, shrink: float, tile: int, patch: int) -> list[Span]:
    """Cells first..stop of adjacent tiles, each made of `shrink` cells of the encoder; none for a very thin image.

    Pixels of a tile after its last whole patch are in no cell.
    """
    cells = tile // patch
    count = stop - first if shrink == 1 else int((stop - first) // shrink)
    if not count:
        return []
    step = (stop - first) / count

    def pixel(cell: float, is_end: bool) -> float:
        whole, rest = divmod(cell, 1)
        if is_end and rest == 0:
            whole, rest = whole - 1, 1
        return whole // cells * tile + (whole % cells + rest) * patch

    return [axis.span(pixel(first + k * step, False), pixel(first + (k + 1) * step, True)) for k in range(count)]


def _shrink(image: ProcessedImage, rows: int, cols: int, cells: int) -> float:
    """OneVision's "anyres_max_9": the factor for a grid with more tokens than 9 tiles have."""
    limit = getattr(image.config, "vision_aspect_ratio", None)
    if limit is None:
        return 1
    ratio = sqrt(rows * cols / (int(limit.removeprefix("anyres_max_")) * cells**2))
    return ratio if ratio > 1.1 else 1


def _require_plain_tiles(image: ProcessedImage, tile: int) -> None:
    """Raises InputError if the processor resizes or crops the tiles, which no published checkpoint does."""
    size = image.settings.size
    side = size.get("height") or size.get("shortest_edge")
    crop = image.settings.crop_size["height"] if image.settings.do_center_crop else tile
    if not side == crop == tile == image.config.vision_config.image_size:
        raise InputError(
            f"--model {image.vlm.name}: {type(image.settings).__name__} with size {size} and crop {crop} for a vision "
            f"encoder of {image.config.vision_config.image_size} pixels is not supported; expected one side for all"
        )
