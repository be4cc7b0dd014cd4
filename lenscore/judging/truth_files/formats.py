"""Which format a truth file has."""

from __future__ import annotations

from pathlib import Path

from lenscore.judging.truth_files.annotations import coco_objects, visual_genome_objects
from lenscore.judging.truth_files.known_objects import AnalysedImages, KnownObjects
from lenscore.judging.truth_files.object_tables import table_objects
from lenscore.user_files.finding import require_regular
from lenscore.user_files.json_values import json_values
from lenscore.user_files.rows import format_of
from storage_layouts.errors import InputError


def known_objects(path: Path, analysed: AnalysedImages, by_box: bool = False) -> KnownObjects:
    """What a file says of the analysed images. InputError if it is of no known format.

    With `by_box` objects of COCO and LVIS that have both a box and a mask are taken by their box, which is faster.
    """
    require_regular(path, str(path))
    if is_table(path):
        return table_objects(path, analysed)
    key = next(json_values(path))[0]
    return visual_genome_objects(path, analysed) if key is None else coco_objects(path, analysed, by_box)


def is_table(path: Path) -> bool:
    """Whether a file is a table of objects, and not JSON of COCO, LVIS or Visual Genome."""
    if format_of(path.name) != ".json":
        return True
    first = next(json_values(path), None)
    if first is None:
        raise InputError(f"{path}: is empty, expected objects with their places and words")
    key, _, value = first
    return key is None and not (isinstance(value, dict) and "objects" in value)
