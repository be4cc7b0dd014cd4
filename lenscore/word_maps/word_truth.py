"""Where the objects are that a word names, as far as somebody knows: from a truth file, or in the shapes world."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lenscore.judging.patches import ImagePatches
from lenscore.judging.truth_files.formats import known_objects
from lenscore.judging.truth_files.known_objects import AnalysedImages, KnownObject
from lenscore.judging.truth_files.word_forms import word_forms
from lenscore.readings.words import folded
from lenscore.shapes import Scene, read_scene
from lenscore.shapes.truth import background_aspects, coverage, object_aspects
from storage_layouts.counts import counted
from storage_layouts.errors import InputError
from storage_layouts.machine_errors import refuse_machine_error

SHAPES = "shapes"
"""In place of a truth file: the scenes that images of the shapes world carry."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NamedPart:
    """A part of an image: what it is called, and how much of each patch ``[n, 4]`` it covers, 0..1 ``[n]``."""

    words: frozenset[str]
    coverage: Callable[[Floats], Floats]
    is_background: bool = False


@dataclass(frozen=True)
class WordTruth:
    """The named parts of images, by their ids; `notes` say what was left out of a file."""

    parts: Mapping[int, Sequence[NamedPart]]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, truth: str, images: Sequence[ImagePatches]) -> WordTruth:
        """What a truth file says of images, or what their scenes say, for `SHAPES`.

        Of the images, path and size are used. A noun of a file is right in singular and plural; in the shapes world all
        words of an object are, and those of the background. Raises InputError for a file that cannot be read or names
        none of the images, and for an image without a scene.
        """
        if truth == SHAPES:
            return cls({image.image_id: list(_parts_of_scene(_scene_of(Path(image.path)))) for image in images})
        path = Path(truth)
        known = known_objects(path, AnalysedImages(images))
        if not known.of_image:
            raise InputError(
                f"--truth {path}: names none of the {counted(len(images), 'image')}, such as {images[0].path}; "
                f"expected paths that these end in, or {SHAPES} for images of the shapes world"
            )
        parts = {image: [_part_of_object(one) for one in objects] for image, objects in known.of_image.items()}
        return cls(parts, tuple(known.notes.lines()))

    def images_with(self, word: str) -> list[int]:
        """The ids of images that have something of this name."""
        name = folded(word)
        return [image for image, parts in self.parts.items() if any(name in part.words for part in parts)]

    def coverage(self, image_id: int, word: str, boxes: npt.NDArray[np.float32]) -> Floats:
        """The largest share of each patch ``[n, 4]`` that one thing of this name covers; NaN for boxes without area."""
        has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        shares = np.where(has_area, 0.0, np.nan)
        for part in self.parts.get(image_id, ()):
            if folded(word) in part.words:
                shares[has_area] = np.maximum(shares[has_area], part.coverage(boxes[has_area].astype(np.float64)))
        return shares


def _part_of_object(known: KnownObject) -> NamedPart:
    forms = frozenset(form for word in known.words for form in word_forms(word))
    return NamedPart(forms, lambda boxes: known.region().coverage(boxes))


def _scene_of(path: Path) -> Scene:
    try:
        return read_scene(path)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError):
            refuse_machine_error(path, error)
        raise InputError(f"--truth {SHAPES}: knows only images of the shapes world: {error}") from None


def _parts_of_scene(scene: Scene) -> Iterable[NamedPart]:
    def of_object(number: int) -> Callable[[Floats], Floats]:
        return lambda boxes: coverage(scene, boxes)[:, number]

    for number, item in enumerate(scene.objects):
        yield NamedPart(_all_words(object_aspects(item)), of_object(number))
    words = _all_words(background_aspects(scene))
    yield NamedPart(words, lambda boxes: 1 - coverage(scene, boxes).sum(axis=1), is_background=True)


def _all_words(aspects: Mapping[str, frozenset[str]]) -> frozenset[str]:
    return frozenset(folded(word) for words in aspects.values() for word in words)
