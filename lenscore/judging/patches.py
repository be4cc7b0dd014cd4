"""Which patches are judged: a pure hash of the seed and the image, never a global generator.

So every layer, lens and model of equal geometry is judged on the same patches, whatever else lies in the
folder, in whatever order and on however many workers. (One generator for all layers drifted in published work:
every layer was judged on other patches.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

Box = tuple[float, float, float, float]
"""left, top, right, bottom, each 0..1 of the original image's width or height."""


@dataclass(frozen=True)
class PatchRef:
    """One patch of one image. ``sha256`` is of the image file's bytes and names the image for every hash."""

    image_id: int
    sha256: str
    view: int
    row: int
    col: int
    box: Box

    @property
    def key(self) -> tuple[int, int, int, int]:
        """image_id, view, row, col: what names this patch in a LensResults folder."""
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


def readable_images(images: pa.Table, geometry: pa.Table) -> list[ImagePatches]:
    """The images of a LensResults folder that were read, in the order of their ids, without patches of no area.

    (A patch that shows nothing but the processor's padding has a box of no area: there is nothing to judge.)

    ``images`` has the columns image_id, path, sha256; ``geometry`` image_id, width, height, error (null where
    the image was read) and patches (structs view, row, col, left, top, right, bottom).
    """
    named = {row["image_id"]: row for row in images.select(["image_id", "path", "sha256"]).to_pylist()}
    readable = []
    for row in geometry.select(["image_id", "width", "height", "error", "patches"]).to_pylist():
        if row["error"] is not None:
            continue
        image = named[row["image_id"]]
        places = [_place(image, patch) for patch in row["patches"]]
        places = [place for place in places if _area(place.box) > 0]
        size = row["width"], row["height"]
        readable.append(ImagePatches(image["image_id"], image["path"], image["sha256"], tuple(places), *size))
    return sorted(readable, key=lambda image: image.image_id)


def whole_patches(image: ImagePatches) -> list[PatchRef]:
    """The patches whose box lies in the real image, not in padding.

    Boxes are cut off where the image ends, so a patch that is partly padding is smaller than others of its view. One
    that misses less than a twentieth is taken as whole: processors round padding to whole pixels. Where all patches of
    a view have the same box, their place is unknown (a model of an unknown family), and none is whole.
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
    """Width and height of a patch that nothing cuts off: the largest of the boxes of one view."""
    return max(right - left for left, _, right, _ in boxes), max(bottom - top for _, top, _, bottom in boxes)


def sample_patches(
    images: Iterable[ImagePatches],
    count: int,
    seed: int,
    qualifying: Callable[[ImagePatches], Sequence[PatchRef]],
    max_images: int | None = None,
    per_image: int | None = None,
) -> list[PatchRef]:
    """At most ``count`` patches, dealt evenly over the images: everybody's first, then everybody's second, ...

    Images come in the order of their hashes and so do the patches of an image; a patch's place in its image's
    order depends on the seed and on that image alone. ``qualifying`` names the patches of an image that may be
    judged; it is asked only as far as needed. Fewer than ``count`` come back where fewer qualify, or where at most
    ``max_images`` images and ``per_image`` patches of each are wanted.
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
    """For every sampled patch another one, of another image, whose words serve as a control.

    The patches stand in a ring in the order of their hashes; the partner is the next one along that belongs to
    another image (another file content: copies of an image are the same image). None where there is no other
    image.
    """
    ring = sorted(range(len(sample)), key=lambda i: _rank("partner", seed, *_name(sample[i])))
    chosen: list[PatchRef | None] = [None] * len(sample)
    for start, i in enumerate(ring):
        around = (sample[ring[(start + step) % len(ring)]] for step in range(1, len(ring)))
        chosen[i] = next((other for other in around if other.sha256 != sample[i].sha256), None)
    return chosen


def patch_rank(seed: int, place: PatchRef) -> bytes:
    """Where a patch stands in its image's order: a hash of the seed, the image's content and the patch."""
    return _rank(seed, *_name(place))


def _name(place: PatchRef) -> tuple[object, ...]:
    return place.sha256, place.view, place.row, place.col


def _rank(*parts: object) -> bytes:
    return hashlib.sha256("/".join(["lenscore.judging", *map(str, parts)]).encode()).digest()


def _area(box: Box) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


def _place(image: dict[str, object], patch: dict[str, float]) -> PatchRef:
    box = (patch["left"], patch["top"], patch["right"], patch["bottom"])
    return PatchRef(image["image_id"], image["sha256"], int(patch["view"]), int(patch["row"]), int(patch["col"]), box)  # type: ignore[arg-type]
