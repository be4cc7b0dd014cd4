"""Which layers get a label on an axis where layers stand at their true distances."""

from __future__ import annotations

from collections.abc import Sequence


def labelled(layers: Sequence[int], apart: float) -> list[int]:
    """Returns the first and the last of ascending layers, and those between that are so far ``apart`` from the others.

    Of two ends that are nearer, only the first is labelled.
    """
    first, last = layers[0], layers[-1]
    found = [first]
    for layer in layers[1:]:
        if layer - found[-1] >= apart and (layer == last or last - layer >= apart):
            found.append(layer)
    return found
