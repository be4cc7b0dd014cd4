"""A task instead of captions: is an object at the top or at the bottom of its image?

An ablation of the LatentLens paper (arXiv 2602.00462). Its code takes points of PixMo; here the places are those of a
truth file. As there, the question is "Where is dog?", the answer "Dog is on the top of the image."; all objects of
a name count by the mean of their heights, above the upper fifth and below the lower fifth of the image, and what lies
between is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from lenscore.images.image_files import image_suffixes
from lenscore.judging.patches import ImagePatches
from lenscore.judging.truth_files.formats import known_objects
from lenscore.judging.truth_files.known_objects import AnalysedImages, KnownObject
from lenscore.judging.truth_files.regions import Region
from lenscore.training.pairs import Pair
from lenscore.user_files.finding import files_in, path_from_stored, stored_path
from lenscore.user_files.notes import Notes
from storage_layouts.errors import InputError

UNREADABLE = "images that cannot be read, left out"
BETWEEN = "names whose objects are neither at the top nor at the bottom, left out"
EXAMPLES = "examples"

_TOP, _BOTTOM = 0.2, 0.8
_STRIPS = 200
_TURNED = 5
"""EXIF orientations from here on exchange width and height."""


def top_bottom_pairs(data: str, objects: Path, notes: Notes) -> list[Pair]:
    """One pair for each image and name of its objects at the top or bottom, in the order of the images.

    Args:
        data: a folder of images.
        objects: a truth file (`lenscore.judging.truth_files.formats`) that names them.
        notes: takes what is left out.

    Raises:
        InputError: if there is no such folder, if the file cannot be read, or if no object is at the top or bottom.

    """
    images = list(_images(Path(data), notes))
    known = known_objects(objects, AnalysedImages(images), by_box=True)
    notes.include(known.notes)
    pairs = []
    for image in images:
        size = path_from_stored(image.path).stat().st_size
        for word, height in _heights(known.of_image.get(image.image_id, ())).items():
            if _TOP <= height <= _BOTTOM:
                notes.add(BETWEEN, word)
                continue
            place = "top" if height < _TOP else "bottom"
            notes.add(EXAMPLES, place)
            answer = f"{word[0].upper()}{word[1:]} is on the {place} of the image."
            pairs.append(Pair(image.path, 0, size, f"Where is {word.lower()}?", answer))
    if not pairs:
        raise InputError(
            f"--top-bottom {objects}: names no object at the top or bottom of one of the images in {data} "
            f"(it names {len(known.of_image)} of these {len(images)})"
        )
    return pairs


def _images(folder: Path, notes: Notes) -> Iterator[ImagePatches]:
    """The images of a folder and its subfolders with their sizes as they are seen."""
    if not folder.is_dir():
        raise InputError(f"--data {folder}: no such folder; with --top-bottom expected one of images")
    paths = files_in(folder, lambda name: Path(name).suffix.lower() in image_suffixes(), notes)
    for number, path in enumerate(path.absolute() for path in paths):
        try:
            with Image.open(path) as picture:
                turned = picture.getexif().get(ExifTags.Base.Orientation, 1) >= _TURNED
                width, height = picture.size[::-1] if turned else picture.size
        except Exception:  # Pillow's decoders raise nearly anything on broken files
            notes.add(UNREADABLE, path.name)
        else:
            yield ImagePatches(number, stored_path(path), "", (), width, height)


def _heights(objects: list[KnownObject] | tuple[()]) -> dict[str, float]:
    """By name the mean height of the middles of its objects: 0 is the upper end of the image, 1 the lower."""
    heights: dict[str, list[float]] = {}
    for known in objects:
        middle = _middle(known.region())
        if middle is not None:
            heights.setdefault(known.words[0], []).append(middle)
    return {word: float(np.mean(middles)) for word, middles in heights.items()}


def _middle(region: Region) -> float | None:
    """The height of the middle of what the image shows of a region; None if that is nothing."""
    ends = np.linspace(0, 1, _STRIPS + 1)
    strips = np.stack([np.zeros(_STRIPS), ends[:-1], np.ones(_STRIPS), ends[1:]], axis=1)
    covered = region.coverage(strips)
    return float(covered @ (ends[:-1] + ends[1:]) / 2 / covered.sum()) if covered.any() else None
