"""Saved pages of the logit lens as the viewer shows them; see `storage_layouts.logit_lens_pages`."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lenscore.images.image_files import UnreadableImageError, decode_image
from lenscore.readings.image_reading import ImageReading, LensReading, Picture, Word
from lenscore.readings.lens_titles import SAVED_LOGIT
from lenscore.readings.text_reading import TextReading
from lenscore.readings.words import encodable
from lenscore.viewer.browser_pictures import LARGEST_SIDE
from lenscore.viewer.shown_models import ViewerModel
from lenscore.viewer.words_of_ids import token_as_word
from storage_layouts.errors import InputError
from storage_layouts.files import digest_file
from storage_layouts.logit_lens_pages import LogitLensPage, page_files, read_page

_NOTES = (
    "Read from saved pages of the logit lens, in the layout of llava-interp (arXiv 2410.07149): five candidates with "
    "probabilities of four digits.",
    'Layers are counted from 0: "Layer 1" of such a page is layer 0 here. In transformers the hidden states begin with '
    "the input of the first block, and the last of them has the final norm behind it, which the page applies again.",
)
_NO_WORD = -1


class PageReadings:
    """The readings of pages of one model; attributes as in `shown_models.Readings`, layers from 0."""

    def __init__(self, pages: Sequence[LogitLensPage]) -> None:
        self._pages = pages
        self.layers = tuple(range(len(pages[0].candidates)))
        self.lenses: tuple[str, ...] = (SAVED_LOGIT,)
        self.top_k = max(len(found) for page in pages for layer in page.candidates for found in layer)
        self.image_ids = list(range(len(pages)))
        stems = (page.path.stem.removesuffix("_logit_lens") for page in pages)
        self.names: Mapping[int, str] = dict(enumerate(map(encodable, stems)))
        self.errors: Mapping[int, str] = {}

    @property
    def has_texts(self) -> bool:
        """Whether a page shows other tokens than patches."""
        return any(_text_places(page) for page in self._pages)

    def texts(self, image_ids: Iterable[int]) -> Iterator[tuple[int, TextReading]]:
        """Yields the tokens of the prompts of some pages, ascending; ids are made, equal for equal texts."""
        for image_id in sorted(image_ids):
            page = self._pages[image_id]
            places = _text_places(page)
            lens = self._lens(page, places)
            ids = {word.token: word.token_id for word in lens.words}
            yield (
                image_id,
                TextReading(
                    name=self.names[image_id],
                    tokens=tuple(page.labels[place] for place in places),
                    token_ids=tuple(ids.get(page.labels[place], _NO_WORD - 1) for place in places),
                    prompt_tokens=len(places),
                    layers=self.layers,
                    depth=len(self.layers) - 1,
                    lenses=(lens,),
                ),
            )

    def readings(self, image_ids: Iterable[int]) -> Iterator[tuple[int, ImageReading]]:
        """Yields the readings of some pages, ascending."""
        for image_id in sorted(image_ids):
            yield image_id, self._reading(self._pages[image_id], self.names[image_id])

    def _reading(self, page: LogitLensPage, name: str) -> ImageReading:
        number = np.array(list(page.patches.values()))
        row, col = np.divmod(number, page.cols)
        corners = np.stack([col, row, col + 1, row + 1], axis=1) * page.patch_size
        return ImageReading(
            name=name,
            caption="",
            width=page.width,
            height=page.height,
            picture=_picture(page.picture),
            views={0: "image"},
            places=np.stack([np.zeros_like(row), row, col], axis=1).astype(np.int32),
            boxes=(corners / ([page.width, page.height] * 2)).astype(np.float32),
            layers=self.layers,
            lenses=(self._lens(page, list(page.patches)),),
        )

    def _lens(self, page: LogitLensPage, places: Sequence[int]) -> LensReading:
        """The candidates at places of the input."""
        words: dict[str, int] = {}
        shape = len(page.candidates), len(places), self.top_k
        which, scores = np.full(shape, _NO_WORD, np.int32), np.full(shape, np.nan, np.float32)
        for number, layer in enumerate(page.candidates):
            for column, place in enumerate(places):
                for rank, (token, share) in enumerate(layer[place]):
                    which[number, column, rank] = words.setdefault(token, len(words))
                    scores[number, column, rank] = share
        known: list[Word] = [replace(token_as_word(token), token_id=number) for token, number in words.items()]
        return LensReading(SAVED_LOGIT, known, which, scores)


def _text_places(page: LogitLensPage) -> list[int]:
    """Which tokens of the input are no patches."""
    return [place for place in range(len(page.labels)) if place not in page.patches]


def page_models(given: Sequence[Path]) -> list[ViewerModel]:
    """Returns a model for each folder of saved pages, or page. Raises InputError for pages that cannot be used."""
    return [_model(path) for path in given]


def is_saved_page(path: Path) -> bool:
    """Returns whether this is a saved page, or a folder of them."""
    return bool(page_files(path))


def _model(path: Path) -> ViewerModel:
    files = page_files(path)
    pages = [read_page(file) for file in files]
    for page in pages:
        if len(page.candidates) != len(pages[0].candidates):
            raise InputError(
                f"{page.path}: has {len(page.candidates)} layers, but {files[0]} has {len(pages[0].candidates)}; name "
                "folders that hold the pages of one model each"
            )
    digests = "\n".join(f"{file.name} {digest_file(file)}" for file in files)
    label = encodable(path.resolve().stem if path.is_file() else path.resolve().name)
    about = (("saved pages", label),)
    run_id = hashlib.sha256(digests.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return ViewerModel(label, run_id, PageReadings(pages), notes=_NOTES, about=about)


def _picture(data: bytes | None) -> Picture | None:
    """The picture, drawn again: only pixels of a foreign file come into the page. None if it is no image."""
    try:
        shown = decode_image(data or b"")
    except UnreadableImageError:
        return None
    shown.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    return Picture(buffer.getvalue(), "image/png")
