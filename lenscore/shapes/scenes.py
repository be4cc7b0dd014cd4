"""Scenes, the contents of pictures of the shapes world, and their sampling.

A scene is a pure function of (split, seed, index). The three splits cannot overlap: the *signature* of a scene (its
background colour and the noun and colour of every object) belongs to exactly one split for every seed. Every caption
contains the whole signature, so no caption of a test scene can describe a training scene.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from lenscore.shapes.chance import generator
from lenscore.shapes.vocabulary import COLOURS, NOUNS, SIZES, TEXTURES

Split = Literal["train", "validation", "test"]

IMAGE_SIZE = 96
"""Side of an image in pixels."""

# Objects start near multiples of this many pixels, so that many of the model's 12-pixel patches are mostly inside one
# object. The truth does not depend on it.
_PLACEMENT_STEP = 12
_GAP = 2
_SAME_NOUN_CHANCE = 0.12
_LARGEST_PHASE = 5


@dataclass(frozen=True)
class SceneObject:
    """One object.

    ``noun``, ``colour``, ``texture`` and ``size`` are concepts (keys of ``vocabulary.NOUNS`` and so on);
    ``left``, ``top`` and ``side`` are pixels: the square that the object fills; ``phase`` shifts its texture.
    """

    noun: str
    colour: str
    texture: str
    size: str
    left: int
    top: int
    side: int
    phase: int

    @property
    def vertical_third(self) -> int:
        """0, 1 or 2: the third of the image, from the top, that holds the object's centre."""
        return (2 * self.top + self.side) * 3 // (2 * IMAGE_SIZE)

    @property
    def horizontal_third(self) -> int:
        """0, 1 or 2: the third of the image, from the left, that holds the object's centre."""
        return (2 * self.left + self.side) * 3 // (2 * IMAGE_SIZE)


@dataclass(frozen=True)
class Scene:
    """A background colour (a key of ``vocabulary.COLOURS``), objects in reading order, a seed for the noise.

    Objects never overlap.
    """

    background: str
    objects: tuple[SceneObject, ...]
    noise_seed: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the scene as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scene:
        """The inverse of ``to_dict``. Raises ValueError if a field is missing, unknown or out of range."""
        try:
            objects = tuple(SceneObject(**fields) for fields in values["objects"])
            scene = cls(values["background"], objects, values["noise_seed"])
            _check(scene)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a description of a scene: {error}") from error
        return scene


def sample_scene(split: Split, index: int, seed: int = 0) -> Scene:
    """Returns scene number ``index`` of a split, the same on every machine.

    Raises ValueError for a split that does not exist.
    """
    if split not in get_args(Split):
        raise ValueError(f"split {split!r} does not exist; choose one of {', '.join(get_args(Split))}")
    rng = generator("scene", split, seed, index)
    while True:
        scene = _draw_scene(rng)
        if split_of(scene) == split:
            return scene


def split_of(scene: Scene) -> Split:
    """Returns the split of this scene's signature: 80 % train, 10 % validation, 10 % test."""
    objects = sorted(f"{o.colour} {o.noun}" for o in scene.objects)
    signature = f"{scene.background}: {', '.join(objects)}"
    bucket = hashlib.sha256(signature.encode()).digest()[0] % 10
    if bucket == 0:
        return "test"
    return "validation" if bucket == 1 else "train"


def _draw_scene(rng: random.Random) -> Scene:
    background = rng.choice(list(COLOURS))
    wanted = rng.choice((1, 2, 2, 3, 3))
    objects: list[SceneObject] = []
    for _ in range(60):
        candidate = _draw_object(rng, background, objects)
        if not any(_too_close(candidate, other) for other in objects):
            objects.append(candidate)
        if len(objects) == wanted:
            break
    objects.sort(key=lambda o: (o.vertical_third, o.horizontal_third, o.top, o.left))
    return Scene(background, tuple(objects), noise_seed=rng.getrandbits(32))


def _draw_object(rng: random.Random, background: str, others: list[SceneObject]) -> SceneObject:
    size = rng.choice(list(SIZES))
    side = rng.randint(SIZES[size].smallest_side, SIZES[size].largest_side)
    noun = rng.choice(list(NOUNS))
    if others and rng.random() < _SAME_NOUN_CHANCE:
        noun = others[0].noun
    return SceneObject(
        noun=noun,
        colour=rng.choice([colour for colour in COLOURS if colour != background]),
        texture=rng.choice(["plain", *TEXTURES]),  # plain twice: two objects in five are plain
        size=size,
        left=_draw_offset(rng, side),
        top=_draw_offset(rng, side),
        side=side,
        phase=rng.randint(0, _LARGEST_PHASE),
    )


def _draw_offset(rng: random.Random, side: int) -> int:
    room = IMAGE_SIZE - side
    offset = _PLACEMENT_STEP * rng.randint(0, room // _PLACEMENT_STEP + 1) + rng.randint(-1, 1)
    return min(room, max(0, offset))


def _too_close(a: SceneObject, b: SceneObject) -> bool:
    apart_sideways = a.left + a.side + _GAP <= b.left or b.left + b.side + _GAP <= a.left
    apart_upwards = a.top + a.side + _GAP <= b.top or b.top + b.side + _GAP <= a.top
    return not (apart_sideways or apart_upwards)


def _check(scene: Scene) -> None:
    """Raises ValueError for a scene that cannot be rendered."""
    if scene.background not in COLOURS:
        raise ValueError(f"not a description of a scene: unknown background {scene.background!r}")
    if not isinstance(scene.noise_seed, int) or not 0 <= scene.noise_seed < 2**32:
        raise ValueError(f"not a description of a scene: noise_seed {scene.noise_seed!r} is not a 32-bit number")
    for o in scene.objects:
        known = o.noun in NOUNS and o.colour in COLOURS and o.texture in TEXTURES and o.size in SIZES
        numbers = (o.left, o.top, o.side, o.phase)
        inside = all(isinstance(n, int) and n >= 0 for n in numbers) and o.side > 0
        if not known or not inside or max(o.left, o.top) + o.side > IMAGE_SIZE:
            raise ValueError(f"not a description of a scene: impossible object {o}")
