"""The objects that a truth file names, by analysed image."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from lenscore.judging.patches import Box, ImagePatches
from lenscore.judging.truth_files.regions import BoxRegion, MaskRegion, Region
from lenscore.judging.truth_files.run_length import Mask
from lenscore.user_files.finding import path_from_stored
from lenscore.user_files.notes import Notes
from storage_layouts.errors import InputError


@dataclass(frozen=True, slots=True)
class KnownObject:
    """One object: its names and their synonyms, and where it is, which is opened when it is asked for."""

    words: tuple[str, ...]
    region: Callable[[], Region]


@dataclass
class KnownObjects:
    """What a file says.

    Attributes:
        of_image: the objects of each analysed image that the file names, by image_id.
        images: how many images the file names.
        notes: what was left out of it.

    """

    of_image: dict[int, list[KnownObject]] = field(default_factory=dict)
    images: int = 0
    notes: Notes = field(default_factory=Notes)


class AnalysedImages:
    """The images of a run, found by the names that others have for them."""

    def __init__(self, images: Iterable[ImagePatches]) -> None:
        self._by_name: dict[str, list[tuple[tuple[str, ...], ImagePatches]]] = {}
        for image in images:
            path = path_from_stored(image.path)
            for parts in _names(path):
                self._by_name.setdefault(parts[-1], []).append((parts, image))

    def named(self, name: str, where: str) -> list[ImagePatches]:
        """The images whose paths end in a name, which may have folders before it; none if it was not analysed.

        Several are copies in one place. InputError, naming ``where``, if the name fits paths that differ.
        """
        parts = tuple(part for part in PurePosixPath(name).parts if part != ".")
        if not parts:
            raise InputError(f"{where}: found {name!r}, expected the path of an image")
        if ".." in parts:
            parts = parts[len(parts) - parts[::-1].index("..") :]
        found = [(path, image) for path, image in self._by_name.get(parts[-1], ()) if path[-len(parts) :] == parts]
        paths = sorted({image.path for _, image in found})
        if len(paths) > 1:
            raise InputError(
                f"{where}: the image {name!r} may be {paths[0]} or {paths[1]}; expected more folders in its path"
            )
        return [image for _, image in found]


def _names(path: Path) -> list[tuple[str, ...]]:
    """The parts of a path; of an image in a Parquet file also the name that it has there."""
    parts = path.parts
    in_table = path.parent.parent.suffix.lower() == ".parquet" and path.name.partition("-")[2]
    return [parts, (in_table,)] if in_table else [parts]


def box_region(box: Box, image: ImagePatches) -> Region:
    """A box in shares of an image."""
    return BoxRegion(box, image.width, image.height)


def mask_region(load: Callable[[], Mask], image: ImagePatches, where: str) -> Region:
    """A mask of an image, perhaps in another resolution. InputError if it is of an image of another shape."""
    mask = load()
    require_shape(mask.shape[1], mask.shape[0], image, where)
    return MaskRegion(mask)


def masked(words: tuple[str, ...], load: Callable[[], Mask], image: ImagePatches, where: str) -> KnownObject:
    """An object with a mask that is loaded when it is asked for."""
    return KnownObject(words, partial(mask_region, load, image, where))


def boxed(words: tuple[str, ...], box: Box, image: ImagePatches) -> KnownObject:
    """An object with a box in shares of the image."""
    return KnownObject(words, partial(box_region, box, image))


def require_shape(width: int, height: int, image: ImagePatches, where: str) -> None:
    """InputError unless an image of this size may be the analysed one, perhaps in another resolution."""
    # Whoever makes an image smaller rounds both sides.
    if abs(width * image.height - height * image.width) > width + height:
        raise InputError(
            f"{where}: of an image of {width} x {height} pixels, but {image.path} has "
            f"{image.width} x {image.height}; expected the same shape (was one of them turned or cut?)"
        )
