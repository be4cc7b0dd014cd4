"""The exact judge of the shapes world: it reads the scene that an image carries.

SPEC grammar of ``--judge``:

- ``truth``: patches of which one object covers at least half; yes if a candidate is a noun of that object.
- ``truth:ASPECT[+ASPECT]`` with the aspects noun, colour, texture, size: the same patches; yes if a candidate is
  a right word of one of these aspects.
- ``truth:background``: patches that no object touches; yes if a candidate is a background word or a word for the
  background's colour.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lenscore.images.table_cells import image_bytes
from lenscore.judging.judges.judge_spec import JudgeSpec
from lenscore.judging.patches import SMALLEST_SHARE, ImagePatches, PatchRef
from lenscore.readings.words import folded
from lenscore.shapes import PatchTruth, Scene, patch_truth, read_scene
from lenscore.user_files.finding import path_from_stored
from storage_layouts.errors import InputError
from storage_layouts.machine_errors import refuse_machine_error

ASPECTS = ("noun", "colour", "texture", "size")
BACKGROUND = "background"

_ALL_OF_IT = 1 - 1e-6  # boxes are stored in float32


@dataclass(frozen=True)
class TruthJudge(JudgeSpec):
    """Knows the right words of every patch. Its methods raise InputError for an image outside the shapes world."""

    grammar = "truth, truth:ASPECT"
    reads_scenes = True

    def __post_init__(self) -> None:
        name, colon, rest = self.spec.partition(":")
        aspects = rest.split("+") if colon else ["noun"]
        known = aspects == [BACKGROUND] or all(aspect in ASPECTS for aspect in aspects)
        if name != "truth" or not known or len(set(aspects)) < len(aspects):
            raise InputError(
                f"--judge {self.spec}: no such judge; there are truth (the noun of the object), "
                f"truth:ASPECT or truth:ASPECT+ASPECT with {', '.join(ASPECTS)}, and truth:{BACKGROUND}, for the "
                "shapes world, and truth:FILE"
            )

    @classmethod
    def read(cls, spec: str) -> TruthJudge | None:
        """See `JudgeSpec.read`."""
        return cls(spec) if spec.partition(":")[0] == "truth" else None

    def truth(self, images: Iterable[ImagePatches], cover: float) -> TruthJudge:
        """See `JudgeSpec.truth`; one object always has to cover half of a patch."""
        return self

    def qualifying(self, image: ImagePatches) -> list[PatchRef]:
        """The patches of an image for which this judge has an answer."""
        scene = _scene(image.path, image.sha256)
        return [place for place in image.places if self._judges(patch_truth(scene, place.box))]

    def right_words(self, image: ImagePatches, place: PatchRef) -> frozenset[str]:
        """Every right answer for a qualifying patch."""
        truth = patch_truth(_scene(image.path, image.sha256), place.box)
        aspects = self.spec.partition(":")[2] or "noun"
        names = ["noun", "colour"] if aspects == BACKGROUND else aspects.split("+")
        return frozenset().union(*(truth.aspects[name] for name in names))

    def known(self, image: ImagePatches, place: PatchRef) -> dict[str, Any]:
        """See `PatchTruth`."""
        return {"right": sorted(self.right_words(image, place))}

    def facts(self) -> dict[str, Any]:
        """See `PatchTruth`: nothing."""
        return {}

    def _judges(self, truth: PatchTruth) -> bool:
        if self.spec == f"truth:{BACKGROUND}":
            return truth.kind == "background" and truth.share >= _ALL_OF_IT
        return truth.kind == "object" and truth.share >= SMALLEST_SHARE


def fitting_words(candidates: tuple[str, ...], right: frozenset[str]) -> tuple[str, ...]:
    """The candidates that are right words, by `lenscore.readings.words.folded`, in their order and each once."""
    wanted = {folded(word) for word in right}
    return tuple(dict.fromkeys(word for word in candidates if folded(word) in wanted))


@lru_cache(maxsize=4096)
def _scene(path: str, sha256: str) -> Scene:
    try:
        if hashlib.sha256(image_bytes(path_from_stored(path))).hexdigest() != sha256:
            raise InputError(f"{path}: the file has changed since it was analysed; analyse it again")
        return read_scene(path_from_stored(path))
    except FileNotFoundError:
        raise InputError(f"{path}: the analysed image is gone, and the truth judge reads the scene from it") from None
    except (ValueError, OSError) as error:
        if isinstance(error, OSError):
            refuse_machine_error(path_from_stored(path), error)
        raise InputError(f"the truth judge knows only images of the shapes world: {error}") from error
