"""The exact truth about every patch of an image of the shapes world."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lenscore.readings.image_reading import Thing, Truth
from lenscore.shapes import patch_truths, read_scene
from storage_layouts.machine_errors import refuse_machine_error

_Aspects = tuple[tuple[str, tuple[str, ...]], ...]


def truth_of(path: Path, boxes: npt.NDArray[np.float32]) -> Truth | None:
    """Returns the truth about patches with these boxes (as `ImageReading.boxes`); None for any other image.

    A box without area, which shows only the processor's padding, has the kind "padding".
    """
    try:
        scene = read_scene(path)
    except ValueError:
        return None
    except OSError as error:
        refuse_machine_error(path, error)
        return None
    things: dict[tuple[str, _Aspects], int] = {}
    which, share = np.zeros(len(boxes), np.int32), np.ones(len(boxes), np.float32)
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    truths = iter(patch_truths(scene, boxes[has_area]))
    for patch, shown in enumerate(has_area.tolist()):
        kind: str = "padding"
        aspects: _Aspects = ()
        if shown:
            truth = next(truths)
            kind, share[patch] = truth.kind, truth.share
            aspects = tuple((name, _ordered(words)) for name, words in truth.aspects.items() if words)
        which[patch] = things.setdefault((kind, aspects), len(things))
    return Truth(tuple(Thing(kind, dict(aspects)) for kind, aspects in things), which, share)


@lru_cache(1 << 10)
def _ordered(words: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(words))
