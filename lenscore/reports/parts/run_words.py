"""The words of an analyze run image by image, so that other runs on the same images can be laid beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lenscore.reports.parts.word_vocabulary import CodedResults, Vocabulary
from storage_layouts.results import LensResults

_PLACE = ("view", "row", "col")
_BOX = ("left", "top", "right", "bottom")


@dataclass(frozen=True)
class ImageWords:
    """What the lenses said of one image.

    Attributes:
        sha256: of the image.
        patches: bytes that are equal for equal patches: their places and boxes, in the order of their places.
        codes: int32 ``[patches, layers, k]`` by lens; layers ascending, patches in the order of their places.

    """

    sha256: str
    patches: bytes
    codes: dict[str, npt.NDArray[np.int32]]


class RunWords:
    """The words of one run, coded by a vocabulary that several runs share. ``layers`` ascend."""

    def __init__(self, results: LensResults, vocabulary: Vocabulary) -> None:
        self._results, self._coded = results, CodedResults(results, vocabulary)
        self.layers, self.lenses = tuple(sorted(results.layers)), results.lenses
        images = results.images()
        # The first of several equal images stands for all.
        pairs = zip(images["sha256"].to_pylist(), images["image_id"].to_pylist(), strict=True)
        self._ids: dict[str, int] = {}
        for sha256, image_id in pairs:
            if sha256:
                self._ids.setdefault(sha256, image_id)

    @property
    def images(self) -> list[str]:
        """The sha256 of every distinct image, in the order of the run."""
        return list(self._ids)

    def read(self, images: Sequence[str]) -> Iterator[ImageWords]:
        """Those of the images that this run could read, in its own order."""
        ids = sorted(self._ids[sha256] for sha256 in images if sha256 in self._ids)
        if not ids:
            return
        names = {image_id: sha256 for sha256, image_id in self._ids.items()}
        geometry = self._results.geometry(image_ids=ids)
        patches = {line: _patches(geometry, place) for place, line in enumerate(geometry["image_id"].to_pylist())}
        by_lens = {}
        for found in self._coded.read(ids):
            order = np.lexsort(found.places[:, [4, 3, 2, 1, 0]].T)
            by_lens[found.lens] = found.places[order, 0], found.codes[order]
        for image_id in ids:
            codes = {}
            for lens, (image, lines) in by_lens.items():
                start, stop = np.searchsorted(image, [image_id, image_id + 1])
                codes[lens] = lines[start:stop].reshape(-1, len(self.layers), lines.shape[1])
            if patches[image_id]:
                yield ImageWords(names[image_id], patches[image_id], codes)


def _patches(geometry: pa.Table, line: int) -> bytes:
    """Places and boxes of an image's patches, in the order of their places; empty for an unreadable image."""
    structs = geometry["patches"].combine_chunks()[line].values
    if structs is None or not len(structs):
        return b""
    places = np.stack([structs.field(name).to_numpy() for name in _PLACE], axis=1).astype(np.float32)
    boxes = np.stack([structs.field(name).to_numpy() for name in _BOX], axis=1)
    order = np.lexsort(places[:, ::-1].T)
    return np.concatenate([places, boxes], axis=1)[order].tobytes()
