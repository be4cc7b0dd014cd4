"""The sample of patches: a pure hash of the seed and the image, without a global random generator.

So every layer, lens and model of equal geometry is judged on the same patches, for any other files in the folder, any
order and any number of workers. (In published work one generator for all layers gave every layer other patches.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

SMALLEST_SHARE = 0.5
"""Part of a patch that one object has to cover for the patch to be judged by that object."""

Box = tuple[float, float, float, float]
"""left, top, right, bottom, each 0..1 of the original image's width or height."""
_EDGES = ("left", "top", "right", "bottom")
_BORDER = 1e-6  # boxes are stored in float32


@dataclass(frozen=True)
class PatchRef:
    """One patch of one image. ``sha256`` is of the image file's bytes and identifies the image in every hash."""

    image_id: int
    sha256: str
    view: int
    row: int
    col: int
    box: Box

    @property
    def key(self) -> tuple[int, int, int, int]:
        """image_id, view, row, col: the key of this patch in a LensResults folder."""
        return self.image_id, self.view, self.row, self.col


@dataclass(frozen=True)
class ImagePatches:
    """A readable image, its patches in the order of the model's input, and its size in pixels (0: unknown)."""

    image_id: int
    path: str
    sha256: str
    places: tuple[PatchRef, ...]
    width: int = 0
    height: int = 0

    @cached_property
    def extent(self) -> Box:
        """What all patches together cover."""
        left, top, right, bottom = zip(*(place.box for place in self.places), strict=True)
        return min(left), min(top), max(right), max(bottom)

    @cached_property
    def inner_patches(self) -> dict[int, tuple[float, float]]:
        """By view, width and height of the largest patch that touches no border of the image, if there is one."""
        inner: dict[int, list[Box]] = {}
        for place in self.places:
            if min(place.box[:2]) > _BORDER and max(place.box[2:]) < 1 - _BORDER:
                inner.setdefault(place.view, []).append(place.box)
        return {view: full_patch(boxes) for view, boxes in inner.items()}


def readable_images(images: pa.Table, geometry: pa.Table, with_places: bool = True) -> list[ImagePatches]:
    """The readable images of a LensResults folder, in the order of their ids.

    ``images`` has the columns image_id, path, sha256; ``geometry`` image_id, width, height, error (null for a
    readable image) and patches (structs view, row, col, left, top, right, bottom). Patches of zero area are left out:
    they show only the processor's padding. Without `with_places` all are, and ``geometry`` needs no patches.
    """
    named = {row["image_id"]: row for row in images.select(["image_id", "path", "sha256"]).to_pylist()}
    readable = []
    columns = ["image_id", "width", "height", "error", *(["patches"] if with_places else [])]
    for row in geometry.select(columns).to_pylist():
        if row["error"] is not None:
            continue
        image_id, path, sha256 = named[row["image_id"]].values()
        places = [
            PatchRef(image_id, sha256, patch["view"], patch["row"], patch["col"], tuple(patch[edge] for edge in _EDGES))
            for patch in row.get("patches", ())
        ]
        size = row["width"], row["height"]
        readable.append(ImagePatches(image_id, path, sha256, tuple(one for one in places if _area(one.box) > 0), *size))
    return sorted(readable, key=lambda image: image.image_id)


def whole_patches(image: ImagePatches) -> list[PatchRef]:
    """The patches whose box lies in the real image, not in padding.

    Boxes are cut off where the image ends, so a patch that is partly padding is smaller than others of its view. One
    that lacks less than a twentieth counts as whole, since processors round padding to whole pixels. Where all patches
    of a view have the same box, their position is unknown (a model of an unknown family), and none is whole.
    """
    whole = []
    for view in dict.fromkeys(place.view for place in image.places):
        places = [place for place in image.places if place.view == view]
        if len(places) > 1 and len({place.box for place in places}) == 1:
            continue
        width, height = full_patch([place.box for place in places])
        whole += [place for place in places if _area(place.box) >= 0.95 * width * height]
    return whole


def full_patch(boxes: Sequence[Box]) -> tuple[float, float]:
    """Width and height of a patch that is not cut off: the largest of the boxes of one view."""
    return max(right - left for left, _, right, _ in boxes), max(bottom - top for _, top, _, bottom in boxes)


def sample_patches(
    images: Iterable[ImagePatches],
    count: int,
    seed: int,
    qualifying: Callable[[ImagePatches], Sequence[PatchRef]],
    max_images: int | None = None,
    per_image: int | None = None,
) -> list[PatchRef]:
    """A sample of patches, evenly over the images: the first patch of each image, then the second of each, ...

    Images and the patches of an image are in the order of their hashes. A patch's rank within its image depends only on
    the seed and that image.

    Args:
        images: the images.
        count: number of patches; fewer are returned if fewer qualify, or because of the limits below.
        seed: of the hashes.
        qualifying: returns the patches of an image that may be judged; called only for as many images as needed.
        max_images: upper limit of the number of images.
        per_image: upper limit of the patches of one image.

    """
    order = sorted(images, key=lambda image: (_rank(seed, image.sha256), image.image_id))
    hands: list[list[PatchRef]] = []
    for image in order:
        if len(hands) == (count if max_images is None else min(count, max_images)):
            break
        places = qualifying(image)
        if places:
            hands.append(sorted(places, key=lambda place: patch_rank(seed, place))[:per_image])
    rounds = max(map(len, hands), default=0)
    dealt = [hand[turn] for turn in range(rounds) for hand in hands if turn < len(hand)]
    return dealt[:count]


def partners(sample: Sequence[PatchRef], seed: int) -> list[PatchRef | None]:
    """For every sampled patch one of another image, whose words serve as a control.

    The patches form a ring in the order of their hashes; the partner is the next one with another image content (copies
    of a file are the same image). None if there is no other image.
    """
    ring = sorted(range(len(sample)), key=lambda i: _rank("partner", seed, *_name(sample[i])))
    chosen: list[PatchRef | None] = [None] * len(sample)
    for start, i in enumerate(ring):
        around = (sample[ring[(start + step) % len(ring)]] for step in range(1, len(ring)))
        chosen[i] = next((other for other in around if other.sha256 != sample[i].sha256), None)
    return chosen


def patch_rank(seed: int, place: PatchRef) -> bytes:
    """The sort key of a patch within its image: a hash of the seed, the image's content and the patch."""
    return _rank(seed, *_name(place))


def _name(place: PatchRef) -> tuple[object, ...]:
    return place.sha256, place.view, place.row, place.col


def _rank(*parts: object) -> bytes:
    return hashlib.sha256("/".join(["lenscore.judging", *map(str, parts)]).encode()).digest()


def _area(box: Box) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)
