"""The question about one patch: the image as the model saw it with a red box, a close crop, and candidate words."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from lenscore.judging.patches import ImagePatches, PatchRef
from lenscore.judging.prompts import Prompt
from lenscore.judging.question_pictures import Picture, question_pictures
from storage_layouts.errors import InputError


@dataclass(frozen=True)
class QuestionSettings:
    """How patches and words are shown. Raises InputError that names the flag of a wrong value.

    The box and the crop are squares around the middle of the patch. Their sizes are shares of the image, not
    numbers of patches, so that questions about models with different grids show regions of the same size.
    """

    describe: Literal["word", "phrase"] = "word"
    """How candidates of LatentLens are given: the whole word, or its sentence with the word marked. A phrase is also
    the description that Patchscopes may give, in place of its best candidate."""
    prompt: Path | None = None
    """A prompt template of your own, a text file with {candidates} in it."""
    box_share: float = 3 / 24
    """Side of the red box, as a share of the longer side of the image: 3 x 3 patches of a 24 x 24 grid."""
    crop: float = 1.0
    """Side of the close crop, in sides of the box."""
    image_side: int = 512
    """Longer side of the image that the judge gets, in pixels."""
    crop_side: int = 256
    """Longer side of the close crop, in pixels."""

    def __post_init__(self) -> None:
        if self.describe not in ("word", "phrase"):
            raise InputError(f"--describe: found {self.describe}, expected word or phrase")
        if not 0 < self.box_share <= 1:
            raise InputError(f"--box-share: found {self.box_share}, expected above 0 and at most 1")
        if not 1 <= self.crop <= 1 / self.box_share:
            raise InputError(f"--crop: found {self.crop}, expected 1 to {1 / self.box_share:g} sides of the box")
        for flag, side in (("--image-side", self.image_side), ("--crop-side", self.crop_side)):
            if not 32 <= side <= 2048:
                raise InputError(f"{flag}: found {side}, expected 32 to 2048 pixels")
        _ = self.template

    @cached_property
    def template(self) -> Prompt:
        """The prompt, read once."""
        return Prompt.built_in(self.describe) if self.prompt is None else Prompt.from_file(self.prompt)


@dataclass(frozen=True)
class Question:
    """A question about one patch and its candidate words."""

    text: str
    """The prompt with the candidates filled in."""
    images: tuple[Picture, ...]
    """The image as the model saw it with the red box; the close crop without it."""
    candidates: tuple[str, ...]
    prompt: str
    """Name and version of the template."""

    @property
    def sha256(self) -> str:
        """Hash of text, candidates and pixels; not of the PNG bytes, which depend on the library."""
        parts = [self.text, list(self.candidates), *(image.sha256 for image in self.images)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def ask(
    image: ImagePatches, place: PatchRef, candidates: tuple[str, ...], settings: QuestionSettings = QuestionSettings()
) -> Question:
    """The question whether the candidates fit a patch of an image.

    Args:
        image: the image with all its patches.
        place: the patch.
        candidates: the words.
        settings: how patch and words are shown.

    Raises:
        InputError: the image file is gone or has changed since the analysis.

    """
    template = settings.template
    return Question(template.filled(candidates), question_pictures(image, place, settings), candidates, template.name)
