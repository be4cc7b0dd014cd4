"""Scenes of one to four pieces of real artwork on a background, with their captions and the truth of every pixel.

A scene is a pure function of (artwork, seed, index). Objects never overlap. The truth is written as LVIS has it: one
annotation an object, its mask as run lengths, its category with synonyms.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lenscore.judging.truth_files.run_length import run_lengths_of
from storage_layouts.errors import InputError
from storage_layouts.files import make_folder, write_atomic

SIDE = 224
"""Width and height of a scene in pixels."""
MOST_OBJECTS = 4
SIZES = {1: (140, 224), 2: (98, 140), 3: (77, 110), 4: (77, 105)}
"""By number of objects: the longer side of each is between these, in pixels."""
GAP = 4
"""Pixels between the boxes of two objects, at least."""
TRIES = 300
OPAQUE = 128
"""A pixel with at least this alpha (of 255) belongs to the object."""

BACKGROUNDS = {
    "white": (250, 250, 250),
    "gray": (150, 150, 150),
    "blue": (120, 160, 230),
    "green": (130, 190, 120),
    "yellow": (240, 225, 120),
    "pink": (245, 180, 200),
    "brown": (150, 110, 80),
    "purple": (160, 120, 200),
}
NOUNS = Path(__file__).parent / "data" / "nouns.csv"


@dataclass(frozen=True)
class Picture:
    """One piece of artwork: an image cut to what is not transparent (RGBA), its noun, and other right words."""

    noun: str
    image: Image.Image
    synonyms: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """What `draw` gives.

    Attributes:
        image: RGB, SIDE x SIDE.
        objects: what is on it.
        masks: bool [objects, SIDE, SIDE], the pixels of each.
        caption: names all objects.

    """

    image: Image.Image
    objects: tuple[Picture, ...]
    masks: NDArray[np.bool_]
    caption: str

    def cells(self, grid: int) -> NDArray[np.int64]:
        """Which object covers at least half of each cell of a grid: int64 [grid, grid], -1 where none does."""
        side = SIDE // grid
        share = self.masks.reshape(len(self.masks), grid, side, grid, side).mean(axis=(2, 4))
        return np.where(share.max(axis=0) >= 0.5, share.argmax(axis=0), -1)


def nouns() -> tuple[str, ...]:
    """The nouns of `data/nouns.csv`, in its order."""
    return tuple(line["noun"] for line in _table())


def read_artwork(package: Path) -> list[Picture]:
    """The pictures of an emoji-datasource package that have a noun in `data/nouns.csv`, in the order of that table.

    Raises InputError if the package lacks one.
    """
    with tarfile.open(package) as archive:
        listed = archive.extractfile("package/emoji.json")
        assert listed is not None
        files = {emoji["short_name"]: emoji["image"] for emoji in json.load(listed)}
        folder = next(name for name in archive.getnames() if name.startswith("package/img/") and "/64/" in name)
        found = []
        for line in _table():
            for name in line["pictures"].split():
                try:
                    member = archive.extractfile(folder.rpartition("/")[0] + "/" + files[name])
                except KeyError:
                    raise InputError(f"{package}: has no picture {name!r}, which {NOUNS.name} names") from None
                assert member is not None
                image = Image.open(io.BytesIO(member.read())).convert("RGBA")
                image = image.crop(image.getchannel("A").getbbox())
                found.append(Picture(line["noun"], image, tuple(line["synonyms"].split())))
    return found


def draw(artwork: Sequence[Picture], seed: int, index: int) -> Scene:
    """The scene of this number: a function of artwork, seed and index alone."""
    rng = np.random.default_rng([seed, index])
    colour = str(rng.choice(list(BACKGROUNDS)))
    canvas = _background(rng, BACKGROUNDS[colour])
    count = int(rng.integers(1, MOST_OBJECTS + 1))
    objects: list[Picture] = []
    masks: list[NDArray[np.bool_]] = []
    boxes: list[tuple[int, int, int, int]] = []
    for _ in range(TRIES):
        picture = artwork[int(rng.integers(len(artwork)))]
        width, height = _sized(picture.image, int(rng.integers(*SIZES[count])))
        left, top = int(rng.integers(SIDE - width + 1)), int(rng.integers(SIDE - height + 1))
        box = (left, top, left + width, top + height)
        if picture.noun in {known.noun for known in objects} or _near(box, boxes):
            continue
        image = picture.image.resize((width, height), Image.Resampling.LANCZOS)
        if rng.random() < 0.3:
            image = ImageOps.mirror(image)
        canvas.alpha_composite(image, (left, top))
        mask = np.zeros((SIDE, SIDE), np.bool_)
        mask[box[1] : box[3], box[0] : box[2]] = np.asarray(image.getchannel("A")) >= OPAQUE
        objects.append(picture)
        masks.append(mask)
        boxes.append(box)
        if len(objects) == count:
            break
    return Scene(canvas.convert("RGB"), tuple(objects), np.stack(masks), _caption(objects, colour))


def write_scenes(folder: Path, artwork: Sequence[Picture], seed: int, count: int) -> None:
    """Scenes 0 to count-1 as PNG files, captions.csv (path, caption), and truth.json; the latter is written last."""
    make_folder(folder)
    captions = io.StringIO()
    table = csv.writer(captions, lineterminator="\n")
    table.writerow(["path", "caption"])
    annotations: list[dict[str, Any]] = []
    shown: dict[str, Picture] = {}
    for index in range(count):
        scene = draw(artwork, seed, index)
        png = io.BytesIO()
        scene.image.save(png, "png")
        write_atomic(folder / _name(index), png.getvalue(), flush=False)
        table.writerow([_name(index), scene.caption])
        shown |= {picture.noun: picture for picture in scene.objects}
        annotations += _annotations(scene, index)
    write_atomic(folder / "captions.csv", captions.getvalue().encode())
    write_atomic(folder / "truth.json", json.dumps(_truth(count, shown, annotations)).encode())


def _table() -> list[dict[str, str]]:
    with NOUNS.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def _name(index: int) -> str:
    return f"scene-{index:05d}.png"


def _annotations(scene: Scene, index: int) -> list[dict[str, Any]]:
    """Of each object of a scene: image, noun, box, and its mask as COCO's uncompressed run lengths."""
    return [
        {"image_id": index, "category_id": picture.noun, "bbox": _box(mask), "area": int(mask.sum())}
        | {"segmentation": {"size": [SIDE, SIDE], "counts": run_lengths_of(mask)}}
        for picture, mask in zip(scene.objects, scene.masks, strict=True)
    ]


def _truth(count: int, shown: Mapping[str, Picture], annotations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The annotations of LVIS (Gupta et al. 2019), whose categories are numbers."""
    numbers = {noun: number for number, noun in enumerate(sorted(shown), 1)}
    return {
        "images": [{"id": i, "file_name": _name(i), "width": SIDE, "height": SIDE} for i in range(count)],
        "categories": [{"id": i, "name": noun, "synonyms": shown[noun].synonyms} for noun, i in numbers.items()],
        "annotations": [
            {"id": number, **annotation, "category_id": numbers[annotation["category_id"]]}
            for number, annotation in enumerate(annotations, 1)
        ],
    }


def _box(mask: NDArray[np.bool_]) -> list[int]:
    """left, top, width and height of what is in a mask, in pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def _sized(image: Image.Image, longer: int) -> tuple[int, int]:
    """Width and height of an image whose longer side becomes `longer` pixels."""
    scale = longer / max(image.size)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _near(box: tuple[int, int, int, int], others: Sequence[tuple[int, int, int, int]]) -> bool:
    left, top, right, bottom = box
    return any(
        left < other[2] + GAP and other[0] < right + GAP and top < other[3] + GAP and other[1] < bottom + GAP
        for other in others
    )


def _background(rng: np.random.Generator, colour: tuple[int, int, int]) -> Image.Image:
    """Plain, or with a gradient, noise or stripes of the same colour."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    noise = np.kron(rng.random((16, 16)), np.ones((SIDE // 16, SIDE // 16)))
    kinds = (
        np.ones((SIDE, SIDE)),
        0.75 + 0.3 * x,
        0.75 + 0.3 * y,
        0.85 + 0.25 * noise,
        0.9 + 0.1 * ((8 * x).astype(int) % 2),
    )
    light = kinds[int(rng.integers(len(kinds)))]
    pixels = (light[..., None] * np.array(colour)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGBA")


@cache
def _article(noun: str) -> str:
    """The noun with a, an, or nothing where it is a plural or a mass noun."""
    if noun.endswith("s") and noun not in ("bus", "cactus", "octopus", "rhinoceros"):
        return noun
    if noun in (
        "bread",
        "broccoli",
        "cheese",
        "coffee",
        "corn",
        "fire",
        "garlic",
        "milk",
        "money",
        "salt",
        "beer",
        "candy",
    ):
        return noun
    return f"{'an' if noun[0] in 'aeiou' and noun != 'unicorn' else 'a'} {noun}"


def _caption(objects: Sequence[Picture], colour: str) -> str:
    named = [_article(picture.noun) for picture in objects]
    listed = " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
    return f"{listed} on {_article(colour)} background"
