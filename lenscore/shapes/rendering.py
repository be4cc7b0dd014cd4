"""From a scene to pixels, in integers only: the same scene gives the same bytes on every machine."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lenscore.shapes.outlines import POINTS_PER_PIXEL, pixel_mask
from lenscore.shapes.scenes import IMAGE_SIZE, Scene, SceneObject
from lenscore.shapes.vocabulary import COLOURS

Ints = npt.NDArray[np.int64]

_TINT = 12  # a colour differs by up to this much from scene to scene, in each channel
_LIGHT = 8  # and the whole image by up to this much in brightness
_TEXTURE_CONTRAST = 55  # per cent of the way from a colour to its texture's second colour


def render(scene: Scene) -> npt.NDArray[np.uint8]:
    """Returns the picture of a scene: uint8 ``[96, 96, 3]`` (row, column, red-green-blue)."""
    draws = _hash_stream(scene.noise_seed, IMAGE_SIZE * IMAGE_SIZE * 3 + 64)
    tints, noise = draws[:64], draws[64:]
    image = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.int64)
    image[:] = _tinted(scene.background, tints[:3])
    for number, item in enumerate(scene.objects, start=1):
        colour = _tinted(item.colour, tints[3 * number : 3 * number + 3])
        _paint(image, item, colour)
    light = _symmetric(tints[-1:], _LIGHT)
    grain = _symmetric(noise, 3) + _symmetric(noise >> np.uint64(20), 3)
    return np.clip(image + light + grain.reshape(image.shape), 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def object_masks(scene: Scene) -> npt.NDArray[np.float64]:
    """Returns which share (0..1) of each pixel each object covers: float64 ``[objects, 96, 96]``, read-only."""
    masks = np.zeros((len(scene.objects), IMAGE_SIZE, IMAGE_SIZE))
    for mask, item in zip(masks, scene.objects, strict=True):
        mask[_square(item)] = pixel_mask(item.noun, item.side) / POINTS_PER_PIXEL
    masks.setflags(write=False)
    return masks


def _paint(image: Ints, item: SceneObject, colour: Ints) -> None:
    """Blend the object over the image, in place."""
    covered = pixel_mask(item.noun, item.side)[:, :, None]
    marks = _texture(item.texture, item.side, item.phase)[:, :, None]
    surface = np.where(marks, _second_colour(colour), colour)
    square = _square(item)
    image[square] = (image[square] * (POINTS_PER_PIXEL - covered) + surface * covered) // POINTS_PER_PIXEL


def _square(item: SceneObject) -> tuple[slice, slice]:
    return slice(item.top, item.top + item.side), slice(item.left, item.left + item.side)


def _texture(texture: str, side: int, phase: int) -> npt.NDArray[np.bool_]:
    """The pixels of the second colour: bool ``[side, side]``."""
    y, x = np.mgrid[0:side, 0:side] + phase
    if texture == "striped":
        return y // 3 % 2 == 1
    if texture == "dotted":
        return (2 * (x % 6) - 5) ** 2 + (2 * (y % 6) - 5) ** 2 < 17
    if texture == "checkered":
        return (x // 4 + y // 4) % 2 == 1
    return np.zeros((side, side), dtype=bool)


def _second_colour(colour: Ints) -> Ints:
    """A darker colour for a light one, a lighter colour for a dark one."""
    target = 0 if colour.sum() > 3 * 90 else 255
    return colour + (target - colour) * _TEXTURE_CONTRAST // 100


def _tinted(colour: str, draws: npt.NDArray[np.uint64]) -> Ints:
    return np.clip(np.array(COLOURS[colour].rgb) + _symmetric(draws, _TINT), 0, 255)


def _symmetric(draws: npt.NDArray[np.uint64], bound: int) -> Ints:
    """Integers from -bound to bound, uniformly distributed."""
    return (draws % np.uint64(2 * bound + 1)).astype(np.int64) - bound


def _hash_stream(seed: int, count: int) -> npt.NDArray[np.uint64]:
    """``count`` 44-bit random numbers that depend only on the seed.

    SplitMix64 (Steele, Lea and Flood, 2014), because numpy's generators may change between versions.
    """
    state = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (state ^ (state >> np.uint64(31))) >> np.uint64(20)
