"""``--judge truth:FILE``: objects that the user knows of, with their places and words.

A patch is judged where one object covers at least `--cover` of its box. Right are the words of every object that covers
so much, in singular and plural. The distance to an edge is that of the object which covers most of the patch, or of the
smallest one of these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lenscore.judging.judges.judge_spec import JudgeSpec
from lenscore.judging.patches import ImagePatches, PatchRef
from lenscore.judging.truth_files.formats import is_table, known_objects
from lenscore.judging.truth_files.known_objects import AnalysedImages
from lenscore.judging.truth_files.object_tables import mask_pictures
from lenscore.judging.truth_files.regions import Region
from lenscore.judging.truth_files.word_forms import word_forms
from lenscore.user_files.finding import require_regular
from lenscore.user_files.rows import TABLES, format_of
from storage_layouts.counts import counted
from storage_layouts.errors import InputError
from storage_layouts.files import canonical_json, digest_file
from storage_layouts.machine_errors import reading

_ROUNDING = 1e-6
"""Boxes of patches are stored in float32."""
_DECIMALS = 4
"""Of distances in sides of a patch."""


@dataclass(frozen=True)
class ObjectsSpec(JudgeSpec):
    """Objects in a table, or in the JSON of COCO, LVIS or Visual Genome."""

    grammar = "truth:FILE"
    reads_scenes = True

    @classmethod
    def read(cls, spec: str) -> ObjectsSpec | None:
        """See `JudgeSpec.read`. What has neither a dot nor a folder, and is no file, is a word of the shapes world."""
        name, colon, file = spec.partition(":")
        if name != "truth" or not colon or not (set(file) & {".", "/"} or Path(file).is_file()):
            return None
        if format_of(file) not in TABLES:
            raise InputError(f"--judge {spec}: expected a table or JSON of objects ({', '.join(TABLES)})")
        return cls(spec, file)

    def truth(self, images: Iterable[ImagePatches], cover: float) -> TruthFileJudge:
        """See `JudgeSpec.truth`."""
        return TruthFileJudge(Path(self.where), images, cover)

    @property
    def inputs(self) -> dict[str, Any]:
        """Where the file lies and what is in it and in the pictures of masks that it names.

        InputError if it is not there or cannot be read.
        """
        file = Path(self.where)
        require_regular(file, f"--judge {self.spec}")
        try:
            with reading(file):
                digest = digest_file(file)
        except FileNotFoundError:
            raise InputError(f"--judge {self.spec}: no such file") from None
        identity = {"path": str(file.resolve()), "bytes": digest.bytes, "crc32": digest.crc32}
        if is_table(file) and (pictures := mask_pictures(file)):
            identity["masks"] = _fingerprint(pictures)
        return {"truth": identity}

    @property
    def resolved(self) -> str:
        """With the whole path of the file."""
        return f"truth:{Path(self.where).resolve()}"


def _fingerprint(pictures: list[Path]) -> str:
    """SHA-256 over the contents of pictures; one that is missing matters only if its image was analysed."""
    found = []
    for path in pictures:
        with reading(path):
            found.append(asdict(digest_file(path)) if path.is_file() else None)
    return hashlib.sha256(canonical_json(found)).hexdigest()


class TruthFileJudge:
    """Knows the objects of analysed images from a file.

    Raises InputError if the file cannot be read or names none of the images.
    """

    def __init__(self, path: Path, images: Iterable[ImagePatches], cover: float) -> None:
        self._path, self._cover = path, cover
        images = list(images)
        self._known = known_objects(path, AnalysedImages(images))
        self._images = len(images)
        if not self._known.images:
            raise InputError(f"{path}: is empty, expected objects with their places and words")
        if not self._known.of_image:
            raise InputError(
                f"{path}: names none of the {counted(len(images), 'analysed image')}, such as "
                f"{images[0].path if images else 'none'}; expected paths that these end in"
            )
        self._answers: dict[tuple[int, int, int, int], tuple[tuple[int, ...], int]] = {}
        self._seen = self._seen_images = self._overlapping = self._wordy = 0
        self._example = ""
        self._region = lru_cache(maxsize=16)(self._open_region)

    def qualifying(self, image: ImagePatches) -> list[PatchRef]:
        """The patches of which one object covers enough."""
        objects = self._known.of_image.get(image.image_id)
        self._seen += len(image.places)
        self._seen_images += 1
        if not objects or not image.places:
            return []
        boxes = np.array([place.box for place in image.places], np.float64)
        regions = [one.region() for one in objects]
        covered = np.stack([region.coverage(boxes) for region in regions])  # [objects, patches]
        areas = np.array([region.area for region in regions])
        enough = covered >= self._cover - _ROUNDING
        found = []
        for number in np.flatnonzero(enough.any(axis=0)).tolist():
            most = covered[:, number] >= covered[:, number].max() - _ROUNDING
            nearest = int(np.where(most, areas, np.inf).argmin())
            objects_there = tuple(np.flatnonzero(enough[:, number]).tolist())
            self._overlapping += len(objects_there) > 1
            place = image.places[number]
            self._answers[place.key] = objects_there, nearest
            found.append(place)
        return found

    def known(self, image: ImagePatches, place: PatchRef) -> dict[str, Any]:
        """The right words of a qualifying patch, and its distance to the edge of its object, if that has one."""
        there, nearest = self._answers[place.key]
        objects = self._known.of_image[image.image_id]
        words = {word for one in there for word in objects[one].words}
        if all(" " in word for word in words):
            self._wordy += 1
            self._example = self._example or min(words)
        distance = self._region(image.image_id, nearest).edge_distance(place.box)
        right = {"right": sorted({form for word in words for form in word_forms(word)})}
        return right | ({} if distance is None else {"edge_distance": round(distance, _DECIMALS)})

    def facts(self) -> dict[str, Any]:
        """How many patches cannot be judged and why, as counts and as notes for the user."""
        judged = len(self._answers)
        analysed = len(self._known.of_image)
        notes = [
            f"truth: {self._path.name} names {counted(self._known.images, 'image')}, {analysed:,} of the "
            f"{self._images:,} analysed ones among them",
            f"truth: of {counted(self._seen, 'patch')} of {counted(self._seen_images, 'image')} one object covers "
            f"{100 * self._cover:g} % or more on {judged:,}; the other {self._seen - judged:,} are not judged",
            *(f"truth: {line}" for line in self._known.notes.lines()),
        ]
        if self._overlapping:
            notes.append(
                f"truth: several objects cover so much of {counted(self._overlapping, 'patch')}: all words count"
            )
        if self._wordy:
            notes.append(
                f"truth: {counted(self._wordy, 'sampled patch')} of objects whose names all have several words, which "
                f"no lens says, such as {self._example!r}; give them synonyms"
            )
        counts = {"images_named": analysed, "images_seen": self._seen_images, "patches_seen": self._seen}
        return {"truth": counts | {"patches_covered": judged, "overlapping": self._overlapping}, "notes": notes}

    def _open_region(self, image_id: int, number: int) -> Region:
        return self._known.of_image[image_id][number].region()
