"""What the lenses say of one image, in words: what pages, pictures and tables for people are made of.

A reading knows nothing of runs, stores and models. It comes from a LensResults folder, from one forward pass, or from
the result files of other tools, and looks the same to whatever shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Word:
    """A candidate of a lens as a reader sees it.

    Attributes:
        text: the whole word that holds the token, or the token itself; it may be blank.
        token: the token as the tokenizer shows it.
        sentence: where a corpus used it; "" where the lens knows no sentence.
        start, end: character offsets of the token in the sentence.

    """

    text: str
    token: str = ""
    sentence: str = ""
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class LensReading:
    """What one lens says of every patch at every layer.

    Attributes:
        lens: its name, as results are filed under.
        words: the distinct candidates.
        which: int32 [layers, patches, k]: places in ``words``, best first; -1 where there are fewer than k.
        scores: float32 [layers, patches, k]: cosines or logits; NaN where ``which`` is -1.
        contextual_layers: int16 [layers, patches, k], the layer of the store that a candidate is from; None for
            lenses that search no store.

    """

    lens: str
    words: tuple[Word, ...]
    which: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    contextual_layers: npt.NDArray[np.int16] | None = None


@dataclass(frozen=True)
class PatchVerdict:
    """What a judge said of the words of one patch, lens and layer; ``outcome`` as in storage_layouts.verdicts.

    ``kinds`` has the fitting words under "concrete", "abstract" and "global", as far as the judge tells these apart.
    """

    judge: str
    patch: int
    layer: int
    lens: str
    outcome: str
    fitting: tuple[str, ...] = ()
    kinds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Thing:
    """One answer of the shapes world: what is on a patch (``kind``), and the right words by aspect."""

    kind: str
    aspects: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Truth:
    """What is on every patch: ``things[which[i]]`` covers ``share[i]`` (0..1) of patch i."""

    things: tuple[Thing, ...]
    which: npt.NDArray[np.int32]
    share: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """An image that every browser shows as the model saw it: the bytes of a file, e.g. of ``image/png``."""

    data: bytes
    media_type: str


@dataclass(frozen=True)
class ImageReading:
    """One image, its patches, and what every lens says of them.

    Attributes:
        name: what people call the image; text from outside.
        caption: what somebody said about it; text from outside, "" for nothing.
        width, height: of the original image in pixels.
        picture: the image itself, or None if it is gone.
        views: names by view number, as "global" or "tile 3"; text of ours or of a model.
        places: int32 [patches, 3]: view, row, column.
        boxes: float32 [patches, 4]: left, top, right, bottom as shares (0..1) of the original image.
        layers: visual layers, ascending.
        lenses: the lenses, in the order of the run.
        verdicts: what judges said.
        truth: what is really there, in the shapes world.

    """

    name: str
    caption: str
    width: int
    height: int
    picture: Picture | None
    views: Mapping[int, str]
    places: npt.NDArray[np.int32]
    boxes: npt.NDArray[np.float32]
    layers: tuple[int, ...]
    lenses: tuple[LensReading, ...]
    verdicts: tuple[PatchVerdict, ...] = ()
    truth: Truth | None = None

    @property
    def top_k(self) -> int:
        """How many candidates a lens has at most."""
        return max((lens.which.shape[2] for lens in self.lenses), default=0)
