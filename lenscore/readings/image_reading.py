"""The words of the lenses for one image: the input of pages, figures and tables.

A reading does not depend on runs, stores and models. It is made from a LensResults folder, from one forward pass, or
from the result files of other tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Word:
    """A candidate of a lens.

    Attributes:
        text: the whole word of the token, or the token itself; may be blank.
        token: the decoded token.
        sentence: its sentence in the corpus; "" for lenses without sentences.
        start, end: character offsets of the token in the sentence.
        token_id: in the vocabulary; -1 if unknown.

    """

    text: str
    token: str = ""
    sentence: str = ""
    start: int = 0
    end: int = 0
    token_id: int = -1


@dataclass(frozen=True)
class NextTokenReading:
    """Numbers of the distributions of the next token that a lens reads; float32 [layers, patches], in nats.

    Attributes:
        log_normalizers: the probability of a candidate is exp(score - log_normalizer).
        entropies: of the distributions.
        divergences: KL divergences of the distributions from that after the last block.

    """

    log_normalizers: npt.NDArray[np.float32]
    entropies: npt.NDArray[np.float32]
    divergences: npt.NDArray[np.float32]


@dataclass(frozen=True)
class ExplainedReading:
    """Explained variance of the states by the candidates of a lens; float32 [layers, patches].

    Attributes:
        variances: squared distances from the mean over the image, in what the lens compares.
        explained_1, explained_5: shares of it that the best candidate and the five best explain; NaN without variance.
        random_1, random_5: shares that as many random candidates explain.

    """

    variances: npt.NDArray[np.float32]
    explained_1: npt.NDArray[np.float32]
    explained_5: npt.NDArray[np.float32]
    random_1: npt.NDArray[np.float32]
    random_5: npt.NDArray[np.float32]


@dataclass(frozen=True)
class LensReading:
    """The candidates of one lens for every patch, or token of a text, at every layer.

    Attributes:
        lens: its name in the results.
        words: the distinct candidates; images of a run may share the list, and then it has those of other images too.
        which: int32 [layers, patches, k]: indices into ``words``, best first; -1 if there are fewer than k.
        scores: float32 [layers, patches, k]: cosines or logits; NaN where ``which`` is -1.
        contextual_layers: int16 [layers, patches, k], the layer of a candidate in the store; None without a store.
        next_token: numbers of the whole distributions; None for a lens without them.
        explained: the explained variance, if it was asked for; None for a lens that does not compare with vectors.

    """

    lens: str
    words: Sequence[Word]
    which: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    contextual_layers: npt.NDArray[np.int16] | None = None
    next_token: NextTokenReading | None = None
    explained: ExplainedReading | None = None

    @property
    def probabilities(self) -> npt.NDArray[np.float32] | None:
        """Probabilities of the candidates, of the shape of ``scores``; None for a lens without them."""
        if self.next_token is None:
            return None
        return np.exp(self.scores - self.next_token.log_normalizers[..., None])

    def used(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Returns places in ``words`` of this image's words, the most frequent first, and ``which`` as places there."""
        counts = np.bincount(self.which.ravel() + 1)[1:]
        used = np.flatnonzero(counts)
        used = used[np.argsort(-counts[used], kind="stable")]
        rank = np.full(len(counts) + 1, -1, np.int64)  # the last is for -1
        rank[used] = np.arange(len(used))
        return used, rank[self.which]


@dataclass(frozen=True)
class PatchVerdict:
    """The verdict of a judge on the words of one patch, lens and layer; ``outcome`` as in storage_layouts.verdicts.

    ``kinds`` has the fitting words under "concrete", "abstract" and "global", if the judge distinguishes these.
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
    """Ground truth of the shapes world: the content of a patch (``kind``), and the right words by aspect."""

    kind: str
    aspects: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Truth:
    """Ground truth of every patch: ``things[which[i]]`` covers ``share[i]`` (0..1) of patch i."""

    things: tuple[Thing, ...]
    which: npt.NDArray[np.int32]
    share: npt.NDArray[np.float32]


@dataclass(frozen=True)
class PatchMap:
    """Numbers of patches that come from no lens of the run: effects of interventions, attention.

    Attributes:
        name: distinct among the maps of an image about one lens; a part of addresses.
        title: of the map in a menu.
        explanation: a sentence that defines the numbers and their unit.
        lens: the lens that they are about; "" for none.
        values: float32 [layers, patches]; NaN where there is none.

    """

    name: str
    title: str
    explanation: str
    lens: str
    values: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """The image file for browsers, e.g. of type ``image/png``, with the pixels of the model's input."""

    data: bytes
    media_type: str


@dataclass(frozen=True)
class ImageReading:
    """One image, its patches, and the candidates of every lens.

    Attributes:
        name: of the image; untrusted text.
        caption: of the image; untrusted text, "" for none.
        width, height: of the original image in pixels.
        picture: the image file, or None if it no longer exists.
        views: names by view number, as "global" or "tile 3".
        places: int32 [patches, 3]: view, row, column.
        boxes: float32 [patches, 4]: left, top, right, bottom as shares (0..1) of the original image.
        layers: visual layers, ascending.
        lenses: the lenses, in the order of the run.
        verdicts: of judges.
        truth: ground truth, in the shapes world.
        maps: further numbers of its patches.

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
    maps: tuple[PatchMap, ...] = ()

    @property
    def top_k(self) -> int:
        """The largest number of candidates of a lens."""
        return max((lens.which.shape[2] for lens in self.lenses), default=0)
