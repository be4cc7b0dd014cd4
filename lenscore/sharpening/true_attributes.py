"""What is true of the object under a patch, attribute by attribute, and which of it a sentence names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lenscore.judging.judges.shapes_truth import TruthJudge
from lenscore.judging.patches import ImagePatches, PatchRef
from lenscore.readings.words import WORD, folded
from lenscore.shapes import Scene, read_scene
from lenscore.shapes.scenes import SceneObject
from lenscore.shapes.truth import coverage, object_aspects
from lenscore.shapes.vocabulary import ADJECTIVES, HORIZONTAL_WORDS, NOUNS, VERTICAL_WORDS
from lenscore.user_files.finding import path_from_stored
from lenscore.word_maps.word_truth import SHAPES, NamedPart, WordTruth

ENOUGH = 2
"""Attributes from which on a sentence is specific."""
_LONGEST_NAME = 3
"""Words of a name ("hot dog") that is looked for in sentences, at most."""
_ROUNDING = 1e-6
"""Boxes of patches are stored in float32."""


@dataclass(frozen=True)
class TrueAttributes:
    """What is true of a patch; all words are `folded`.

    Attributes:
        own: the words for each attribute of the object under the patch, first those of its noun.
        others: the names of each other object of the scene, where a truth knows nothing but nouns.
        false: words for attributes that the object does not have, and for objects that the scene does not have.

    """

    own: tuple[frozenset[str], ...]
    others: tuple[frozenset[str], ...] = ()
    false: frozenset[str] = frozenset()

    def has_noun(self, words: Iterable[str]) -> bool:
        """Whether one of some words is the noun of the object, as `--judge truth` asks."""
        return any(folded(word) in self.own[0] for word in words)

    def is_own(self, word: str) -> bool:
        """Whether a word is one for an attribute of the object."""
        return any(folded(word) in words for words in self.own)

    def is_specific(self, sentence: str) -> bool:
        """Whether a sentence names `ENOUGH` attributes or more, of the object itself at least one."""
        said = _names_in(sentence)
        own = sum(not said.isdisjoint(words) for words in self.own)
        return own > 0 and own + sum(not said.isdisjoint(words) for words in self.others) >= ENOUGH

    def is_exact(self, phrase: str) -> bool:
        """Whether a phrase is specific and says nothing false."""
        return self.is_specific(phrase) and self.false.isdisjoint(_names_in(phrase))


@lru_cache(maxsize=100_000)
def _names_in(text: str) -> frozenset[str]:
    """The words of a text and what follows one another there, up to `_LONGEST_NAME` words."""
    words = WORD.findall(folded(text))
    return frozenset(
        " ".join(words[first : first + length])
        for length in range(1, _LONGEST_NAME + 1)
        for first in range(len(words) - length + 1)
    )


class AttributeTruth(Protocol):
    """What is known of the patches of images."""

    notes: Sequence[str]
    """What was left out of a truth file."""

    def qualifying(self, image: ImagePatches) -> list[PatchRef]:
        """The patches of an image of which something is known: those that a judge with this truth would judge."""
        ...

    def of(self, image: ImagePatches, place: PatchRef) -> TrueAttributes:
        """What is true of one of them."""
        ...


def attribute_truth(truth: str, images: Sequence[ImagePatches], cover: float) -> AttributeTruth:
    """The truth of scenes of the shapes world, for `SHAPES`, or that of a file.

    `cover` is the part of a patch that an object of a file has to cover. Raises InputError as `WordTruth.of`.
    """
    if truth == SHAPES:
        return ShapesAttributes()
    return FileAttributes(WordTruth.of(truth, images), cover)


class ShapesAttributes:
    """Noun, colour, texture, size and place of the object that covers at least half of a patch.

    The place is two words, as in "top left"; that of an object in the middle of the image has no words of its own. A
    word is false if it is for another noun, colour, texture or size.
    """

    notes: Sequence[str] = ()

    def __init__(self) -> None:
        self._judge = TruthJudge("truth")
        self._scene = lru_cache(maxsize=16)(_scene)

    def qualifying(self, image: ImagePatches) -> list[PatchRef]:
        """See `AttributeTruth`. Raises InputError for an image without a scene."""
        return self._judge.qualifying(image)

    def of(self, image: ImagePatches, place: PatchRef) -> TrueAttributes:
        """See `AttributeTruth`."""
        scene = self._scene(image.path)
        item = scene.objects[int(coverage(scene, np.array([place.box]))[0].argmax())]
        return object_attributes(item)


def object_attributes(item: SceneObject) -> TrueAttributes:
    """What is true of an object of the shapes world."""
    aspects = object_aspects(item)
    own = [aspects[name] for name in ("noun", "colour", "texture", "size")]
    known = frozenset[str]().union(*(noun.words for noun in NOUNS.values()), *ADJECTIVES.values())
    return TrueAttributes((*own, _place_phrases(item)), false=known - frozenset[str]().union(*own))


def _place_phrases(item: SceneObject) -> frozenset[str]:
    rows, columns = VERTICAL_WORDS[item.vertical_third], HORIZONTAL_WORDS[item.horizontal_third]
    in_the_middle = item.vertical_third == item.horizontal_third == 1
    return frozenset() if in_the_middle else frozenset(f"{row} {column}" for row in rows for column in columns)


def _scene(path: str) -> Scene:
    return read_scene(path_from_stored(path))


class FileAttributes:
    """The noun of the objects that cover enough of a patch, and those of the other objects of its image.

    A word is false if it names something that other images of the file have, and this one does not.
    """

    def __init__(self, truth: WordTruth, cover: float) -> None:
        self.notes: Sequence[str] = truth.notes
        self._parts: Mapping[int, Sequence[NamedPart]] = truth.parts
        self._cover = cover
        self._known = frozenset[str]().union(*(part.words for parts in truth.parts.values() for part in parts))

    def qualifying(self, image: ImagePatches) -> list[PatchRef]:
        """See `AttributeTruth`."""
        enough = self._covered(image, image.places).any(axis=0)
        return [image.places[number] for number in np.flatnonzero(enough)]

    def of(self, image: ImagePatches, place: PatchRef) -> TrueAttributes:
        """See `AttributeTruth`."""
        parts, here = self._parts[image.image_id], set(np.flatnonzero(self._covered(image, [place])[:, 0]).tolist())
        own = frozenset[str]().union(*(part.words for number, part in enumerate(parts) if number in here))
        others = {part.words - own for number, part in enumerate(parts) if number not in here} - {frozenset()}
        return TrueAttributes((own,), tuple(sorted(others, key=sorted)), self._known - own.union(*others))

    def _covered(self, image: ImagePatches, places: Sequence[PatchRef]) -> npt.NDArray[np.bool_]:
        """Which part covers enough of which place: bool [parts, places]."""
        boxes = np.array([place.box for place in places], np.float64).reshape(-1, 4)
        shares = [part.coverage(boxes) for part in self._parts.get(image.image_id, ())]
        enough: npt.NDArray[np.bool_] = np.array(shares, np.float64).reshape(-1, len(boxes)) >= self._cover - _ROUNDING
        return enough
