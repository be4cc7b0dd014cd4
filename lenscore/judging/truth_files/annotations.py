"""The JSON of COCO, LVIS and Visual Genome, as they publish it.

- COCO (cocodataset.org, "object detection") and LVIS (lvisdataset.org): ``images``, ``annotations``, ``categories``.
- Visual Genome (objects.json; Krishna et al., arXiv 1602.07332): a list of images with ``objects``.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from lenscore.judging.patches import Box, ImagePatches
from lenscore.judging.truth_files.known_objects import (
    AnalysedImages,
    KnownObject,
    KnownObjects,
    boxed,
    masked,
    require_shape,
)
from lenscore.judging.truth_files.run_length import Mask, mask_of_polygons, mask_of_rle, require_pixels
from lenscore.user_files.json_values import json_values
from storage_layouts.errors import InputError

CROWDS = "regions of several objects at once (iscrowd), left out"
NO_AREA = "boxes without an area, left out"
NO_WORD = "objects without a name, left out"
BEYOND = "boxes that reach beyond their image by more than a pixel"


def coco_objects(path: Path, analysed: AnalysedImages, by_box: bool) -> KnownObjects:
    """The objects of COCO or LVIS: masks where there is a segmentation, else boxes; with `by_box` boxes first.

    Their names are those of their category and its synonyms. Crowds are left out: they are not one object. The file is
    read twice, because its annotations come before the categories. InputError for what the format does not allow.
    """
    found = KnownObjects()
    images: dict[Any, list[tuple[ImagePatches, int, int]]] = {}
    words: dict[Any, tuple[str, ...]] = {}
    lists = set()
    for key, number, value in json_values(path):
        if number == 0:
            lists.add(key)
            if key in ("images", "annotations", "categories") and not isinstance(value, list):
                raise InputError(f"{path}: {key} is {type(value).__name__}, expected a list")
        elif key == "categories":
            where = f"{path}, category {number}"
            entry = _object(value, where)
            names = [_get(entry, "name", str, where), *_texts(entry.get("synonyms", []), where)]
            words[_id(entry, "id", where)] = _cleaned(names)
        elif key == "images":
            _coco_image(_object(value, f"{path}, image {number}"), f"{path}, image {number}", analysed, found, images)
    if not {"images", "annotations"} <= lists:
        raise InputError(
            f"{path}: JSON without images and annotations; expected that of COCO, LVIS or Visual Genome (objects), or "
            "a list of rows"
        )
    if "categories" not in lists:
        raise InputError(f"{path}: no categories; expected the annotations of objects (instances_... of COCO)")
    for key, number, value in json_values(path):
        if key != "annotations" or number == 0:
            continue
        where = f"{path}, annotation {number}"
        entry = _object(value, where)
        of_image = images.get(_id(entry, "image_id", where))
        if not of_image:
            continue
        category = _id(entry, "category_id", where)
        if category not in words:
            raise InputError(f"{where}: category_id {category!r} is none of the categories")
        if entry.get("iscrowd") in (1, True):
            found.notes.add(CROWDS, " ".join(words[category][:1]))
            continue
        if by_box and entry.get("bbox"):  # some write an empty one beside a segmentation
            entry.pop("segmentation", None)
        for image, width, height in of_image:
            known = _coco_object(entry, words[category], image, width, height, where, found)
            if known is not None:
                found.of_image[image.image_id].append(known)
    return found


def _coco_image(
    entry: dict[str, Any],
    where: str,
    analysed: AnalysedImages,
    found: KnownObjects,
    images: dict[Any, list[tuple[ImagePatches, int, int]]],
) -> None:
    # LVIS 1.0 has no file names, and those of 0.5 are of 2014, while the images are those of 2017.
    names = [name for name in (entry.get("file_name"), entry.get("coco_url")) if isinstance(name, str) and name]
    if not names:
        raise InputError(f"{where}: found no file_name and no coco_url, expected one of them")
    names = [name.rpartition("/")[2] if "://" in name else name for name in names]
    width, height = (_get(entry, side, int, where) for side in ("width", "height"))
    if min(width, height) < 1:
        raise InputError(f"{where}: found {width} x {height} pixels, expected an image")
    require_pixels(width, height, where)
    found.images += 1
    for image in next(filter(None, (analysed.named(name, where) for name in names)), []):
        require_shape(width, height, image, where)
        images.setdefault(_id(entry, "id", where), []).append((image, width, height))
        found.of_image.setdefault(image.image_id, [])


def _coco_object(
    entry: dict[str, Any],
    words: tuple[str, ...],
    image: ImagePatches,
    width: int,
    height: int,
    where: str,
    found: KnownObjects,
) -> KnownObject | None:
    if not words:
        found.notes.add(NO_WORD, path_name(image))
        return None
    shape = entry.get("segmentation")
    if shape:
        if not isinstance(shape, (dict, list)):
            raise InputError(f"{where}: a segmentation of {type(shape).__name__}, expected polygons or run lengths")
        text = json.dumps(shape)  # which takes less memory than its numbers
        return masked(words, partial(_segmentation, text, width, height, where), image, where)
    numbers = entry.get("bbox")
    if not isinstance(numbers, list) or len(numbers) != 4:
        raise InputError(f"{where}: neither a segmentation nor a bbox of four numbers")
    box = _shares(numbers, width, height, where, found, path_name(image))
    return None if box is None else boxed(words, box, image)


def _segmentation(text: str, width: int, height: int, where: str) -> Mask:
    shape = json.loads(text)
    if isinstance(shape, dict):
        return mask_of_rle(shape, where)
    return mask_of_polygons(shape, width, height, where)


def visual_genome_objects(path: Path, analysed: AnalysedImages) -> KnownObjects:
    """The objects of Visual Genome: boxes in pixels, with names and the words of their synsets.

    An image is called as in its address, or by its number with .jpg. InputError for what the format does not allow.
    """
    found = KnownObjects()
    for _, number, value in json_values(path):
        where = f"{path}, image {number}"
        entry = _object(value, where)
        url = entry.get("image_url") or entry.get("url")
        number_of = "image_id" if "image_id" in entry else "id"  # in version 1.0
        name = url.rpartition("/")[2] if isinstance(url, str) else f"{_id(entry, number_of, where)}.jpg"
        objects = _get(entry, "objects", list, where)
        found.images += 1
        for image in analysed.named(name, where):
            known = found.of_image.setdefault(image.image_id, [])
            for place, one in enumerate(objects, start=1):
                at = f"{where}, object {place}"
                one = _object(one, at)
                words = _cleaned(
                    [
                        *_texts(one.get("names", [one["name"]] if "name" in one else []), at),
                        *_synset_words(one.get("synsets", []), at),
                    ]
                )
                if not words:
                    found.notes.add(NO_WORD, path_name(image))
                    continue
                numbers = [one.get(side) for side in ("x", "y", "w", "h")]
                box = _shares(numbers, image.width, image.height, at, found, path_name(image))
                if box is not None:
                    known.append(boxed(words, box, image))
    return found


def path_name(image: ImagePatches) -> str:
    """The last part of an image's path, for counts."""
    return image.path.rpartition("/")[2]


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: found {type(value).__name__}, expected an object")
    return value


def _get(entry: dict[str, Any], name: str, kind: type, where: str) -> Any:
    value = entry.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{where}: {name} is {value!r:.60}, expected {kind.__name__}")
    return value


def _id(entry: dict[str, Any], name: str, where: str) -> Any:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise InputError(f"{where}: {name} is {value!r:.60}, expected a number or a text")
    return value


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InputError(f"{where}: found {value!r:.60}, expected a list of names")
    return value


def _synset_words(value: Any, where: str) -> list[str]:
    """The words of WordNet synsets, as in tree.n.01; early files have objects with a synset_name."""
    if isinstance(value, list):
        value = [one.get("synset_name") if isinstance(one, dict) else one for one in value]
    return [text.partition(".")[0] for text in _texts(value, where)]


def _cleaned(names: list[str]) -> tuple[str, ...]:
    """Names as they are read: LVIS writes bow_(weapon) for a bow."""
    read = (" ".join(re.sub(r"\([^)]*\)", " ", name.replace("_", " ")).split()) for name in names)
    return tuple(dict.fromkeys(name for name in read if name))


def _shares(numbers: list[Any], width: int, height: int, where: str, found: KnownObjects, image: str) -> Box | None:
    """A box of left, top, width and height in pixels as shares; None, counted, for one without an area."""
    if not all(isinstance(one, (int, float)) and not isinstance(one, bool) and abs(one) < 1e9 for one in numbers):
        raise InputError(f"{where}: a box of {numbers!r:.60}, expected left, top, width and height in pixels")
    left, top, wide, high = map(float, numbers)
    if wide <= 0 or high <= 0:
        found.notes.add(NO_AREA, image)
        return None
    if min(left, top) < -1 or left + wide > width + 1 or top + high > height + 1:
        found.notes.add(BEYOND, image)
    return left / width, top / height, (left + wide) / width, (top + high) / height
