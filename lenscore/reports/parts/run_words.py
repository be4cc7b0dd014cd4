"""The words of an analyze run by image, for comparison with other runs on the same images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lenscore.reports.parts.word_vocabulary import CodedResults, Vocabulary
from lenscore.statistics.sources import image_column
from storage_layouts.results import LensResults

_PLACE = ("view", "row", "col")
_BOX = ("left", "top", "right", "bottom")


@dataclass(frozen=True)
class ImageWords:
    """The words of one image.

    Attributes:
        sha256: of the image.
        patches: the sorted places and boxes of the patches as bytes, to test equality.
        codes: int32 ``[patches, layers, k]`` by lens, sorted by place and layer.

    """

    sha256: str
    patches: bytes
    codes: dict[str, npt.NDArray[np.int32]]


class RunWords:
    """The words of one run, coded by a vocabulary that runs share; ``layers`` are sorted."""

    def __init__(self, results: LensResults, vocabulary: Vocabulary) -> None:
        self._results, self._coded = results, CodedResults(results, vocabulary)
        self.layers, self.lenses = tuple(sorted(results.layers)), results.lenses
        self._ids: dict[str, int] = {}
        for image_id, sha256 in image_column(results, "sha256").items():
            if sha256:
                self._ids.setdefault(sha256, image_id)  # the first of several equal images

    @property
    def images(self) -> list[str]:
        """The hash of every distinct image, in the order of the run."""
        return list(self._ids)

    def read(self, images: Sequence[str]) -> Iterator[ImageWords]:
        """The words of those images that this run could read, in its order."""
        ids = sorted(self._ids[sha256] for sha256 in images if sha256 in self._ids)
        if not ids:
            return
        names = {image_id: sha256 for sha256, image_id in self._ids.items()}
        geometry = self._results.geometry(image_ids=ids)
        patches = {line: _patches(geometry, place) for place, line in enumerate(geometry["image_id"].to_pylist())}
        by_lens = {}
        for found in self._coded.read(ids):
            image, view, row, col, layer = found.places.T
            place = (view << 45) + (row << 30) + (col << 15) + layer  # all are int16 on the disk
            lines, step = found.codes, np.diff(image)
            if not ((step > 0) | ((step == 0) & (np.diff(place) >= 0))).all():  # analyze writes most runs in order
                order = np.lexsort([place, image])
                image, lines = image[order], lines[order]
            by_lens[found.lens] = image, lines
        for image_id in ids:
            codes = {}
            for lens, (image, lines) in by_lens.items():
                start, stop = np.searchsorted(image, [image_id, image_id + 1])
                codes[lens] = lines[start:stop].reshape(-1, len(self.layers), lines.shape[1])
            if patches[image_id]:
                yield ImageWords(names[image_id], patches[image_id], codes)


def _patches(geometry: pa.Table, line: int) -> bytes:
    """The sorted places and boxes of an image's patches; empty for an unreadable image."""
    structs = geometry["patches"].combine_chunks()[line].values
    if structs is None or not len(structs):
        return b""
    places = np.stack([structs.field(name).to_numpy() for name in _PLACE], axis=1).astype(np.float32)
    boxes = np.stack([structs.field(name).to_numpy() for name in _BOX], axis=1)
    order = np.lexsort(places[:, ::-1].T)
    return np.concatenate([places, boxes], axis=1)[order].tobytes()
