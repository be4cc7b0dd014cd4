from __future__ import annotations

import random
from hashlib import sha256

import pyarrow as pa

from lenscore.judging.patches import ImagePatches, PatchRef, partners, readable_images, sample_patches


def image(number: int, side: int = 4, content: str | None = None) -> ImagePatches:
    digest = sha256((content or f"image {number}").encode()).hexdigest()
    cells = [(row, col) for row in range(side) for col in range(side)]
    places = tuple(PatchRef(number, digest, 0, row, col, (0.0, 0.0, 1.0, 1.0)) for row, col in cells)
    return ImagePatches(number, f"{number}.png", digest, places)


def everything(one: ImagePatches) -> tuple[PatchRef, ...]:
    return one.places


def test_patches_of_an_image_do_not_depend_on_the_others_or_their_order() -> None:
    images = [image(i) for i in range(20)]
    sample = sample_patches(images, 200, seed=3, qualifying=everything)
    shuffled = random.Random(1).sample(images, len(images))
    assert sample_patches(shuffled, 200, seed=3, qualifying=everything) == sample
    for one in images:
        mine = [place for place in sample if place.image_id == one.image_id]
        alone = sample_patches([one], 200, seed=3, qualifying=everything)
        assert mine == alone[: len(mine)]
        assert len(mine) == 10
    assert sample != sample_patches(images, 200, seed=4, qualifying=everything)


def test_patches_are_dealt_evenly_and_in_prefixes() -> None:
    images = [image(i) for i in range(10)] + [image(10, side=1)]
    few, many = (sample_patches(images, count, 0, everything) for count in (7, 50))
    assert len({place.sha256 for place in few}) == 7
    assert many[:7] == few
    counts = [sum(place.image_id == i for place in many) for i in range(11)]
    assert counts[10] == 1
    assert max(counts[:10]) - min(counts[:10]) <= 1
    assert len(sample_patches(images, 10_000, 0, everything)) == 161
    assert len(set(many)) == len(many) == 50


def test_places_are_uniform_over_the_grid() -> None:
    sample = sample_patches([image(i) for i in range(4000)], 4000, 0, everything)
    counts = [sum((place.row, place.col) == (row, col) for place in sample) for row in range(4) for col in range(4)]
    chi_square = sum((count - 250) ** 2 / 250 for count in counts)
    assert chi_square < 37.7  # 15 degrees of freedom, p = 0.001


def test_partners_come_from_other_images_also_beside_copies() -> None:
    images = [image(0), image(1), image(2, content="image 1")]
    sample = sample_patches(images, 30, 0, everything)
    for place, other in zip(sample, partners(sample, 0), strict=True):
        assert other is not None
        assert other.sha256 != place.sha256
    assert partners(sample_patches(images[1:], 30, 0, everything), 0) == [None] * 30


def test_unreadable_images_and_padding_are_left_out() -> None:
    box = {"view": 0, "row": 0, "col": 0, "left": 0.0, "top": 0.5, "right": 1.0, "bottom": 1.0}
    padding = box | {"row": 1, "top": 1.0}
    images = pa.table({"image_id": [0, 1], "path": ["a", "b"], "sha256": ["x", "y"]})
    geometry = pa.table(
        {
            "image_id": [0, 1],
            "width": [9, 0],
            "height": [7, 0],
            "error": [None, "broken"],
            "patches": [[box, padding], []],
        }
    )
    (one,) = readable_images(images, geometry)
    assert [place.key for place in one.places] == [(0, 0, 0, 0)]
    assert one.places[0].box == (0.0, 0.5, 1.0, 1.0)
