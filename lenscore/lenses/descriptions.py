"""Texts that a lens makes of states, beside its candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from lenscore.lenses.lens import Lens


@runtime_checkable
class DescribingLens(Lens, Protocol):
    """A lens that can describe a state in words of its own.

    Attributes:
        description_tokens: the length of a description at most; 0 for none.

    """

    description_tokens: int

    def describe(self, states: Tensor, layers: Sequence[int]) -> list[list[str]]:
        """One text for each of states [len(layers), n, dim], as in `Lens.top`; it may be empty."""
        ...
