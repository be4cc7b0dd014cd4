"""The viewer: static pages that show, for every patch of an image, the words of each lens at each layer.

It opens from the disk without a server or a network. Jinja escapes every text, and scripts set text only as
textContent, so a hostile word of a corpus cannot act as HTML.

    viewer/index.html                      the models
    viewer/compare.html                    two of them, or two layers of one, side by side on one picture
    viewer/<model>/index.html              its images, rates by layer, and the search for a word
    viewer/<model>/image.html              the page of every image; the part of the address after # names one
    viewer/<model>/texts/000012.html       prompt and answer of an image, of a run that describes them
    viewer/<model>/run.js images/000012.js candidates/*.js words/*.js      data, loaded on demand
    viewer/pictures/<hash>-small.jpg       thumbnails; <hash>-example.jpg below the words of the first page
    viewer/*.css *.js
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from lenscore.readings.image_reading import ImageReading, Picture
from lenscore.viewer.answers_page import answers_page
from lenscore.viewer.browser_pictures import THUMBNAIL_SIDE, thumbnail
from lenscore.viewer.candidate_words import CandidateFiles
from lenscore.viewer.compare_page import COMPARE_FILES, linked_comparison
from lenscore.viewer.example_words import WIDTH, ExampleWords, example_words
from lenscore.viewer.image_page import PAGE_FILES, TEMPLATES, linked_page, page_file, scripts_of
from lenscore.viewer.index_page import index_context
from lenscore.viewer.layer_map import LayerMap
from lenscore.viewer.model_page import Card, model_context
from lenscore.viewer.page_data import image_script, run_script
from lenscore.viewer.script_bytes import script_file
from lenscore.viewer.shown_models import ViewerModel
from lenscore.viewer.text_page import text_page
from lenscore.viewer.word_index import WordIndex

SITE_FILES = ("viewer.css", "site.css", *scripts_of("jsconfig.site.json"))
"""Files of templates/ for the pages around the image page."""


def write_viewer(folder: Path, models: Sequence[ViewerModel], max_images: int) -> Path:
    """Write the viewer into a new folder and return its index.html.

    At most ``max_images`` images of each model are shown: judged ones first, then in the order of the run.
    """
    begin_viewer(folder)
    return write_index(folder, models, [write_model(folder, model, max_images) for model in models], "")


def begin_viewer(folder: Path) -> None:
    """Make the folder of a viewer, with the files that its pages share."""
    folder.mkdir(parents=True)
    for name in dict.fromkeys((*SITE_FILES, *PAGE_FILES, *COMPARE_FILES)):
        _write(folder / Path(name).name, page_file(name))
    (folder / "pictures").mkdir()


def write_index(
    folder: Path,
    models: Sequence[ViewerModel],
    shown: Sequence[tuple[Sequence[Card], ExampleWords | None]],
    report: str,
) -> Path:
    """Write the first page and that of two models side by side; returns the path of the first.

    ``shown`` is what `write_model` returned for each model; ``report`` the file beside the viewer with the figures, or
    "".
    """
    index = folder / "index.html"
    context = index_context(models, shown) | {"report": report}
    _write(index, TEMPLATES.get_template("index.html").render(context))
    _write(folder / "compare.html", linked_comparison([(model.folder, model.label) for model in models]))
    return index


def write_model(folder: Path, model: ViewerModel, max_images: int) -> tuple[list[Card], ExampleWords | None]:
    """Write all pages of one model, and its pictures.

    Returns the cards of its images, and words on the first picture that has any.
    """
    readings = model.readings
    pages = folder / model.folder
    shown = model.chosen(max_images)
    index, layer_map = WordIndex(readings.layers, readings.lenses), LayerMap(readings.layers)
    cards, example = _write_images(folder, model, shown, index, layer_map)
    if readings.has_texts:
        (pages / "texts").mkdir()
        for image_id, text in readings.texts(shown):
            page = text_page(text, model.label, home=f"../image.html#{image_id}")
            _write(pages / "texts" / f"{image_id:06d}.html", page)
    word = index.write(pages / "words")
    leaves = [(card.image_id, card.name, card.thumbnail and f"../{card.thumbnail}") for card in cards]
    run = run_script(model.label, readings.layers, readings.lenses, readings.top_k, leaves, readings.has_texts)
    _write(pages / "run.js", run)
    _write(pages / "image.html", linked_page(model.label))
    answers = None
    if model.source is not None:
        named = {card.image_id: (card.name, card.thumbnail) for card in cards}
        answers = answers_page(model.label, model.source.interventions, named)
    if answers is not None:
        _write(pages / "answers.html", answers)
    context = model_context(model, cards, layer_map, word) | {"has_answers": answers is not None}
    page = TEMPLATES.get_template("model.html").render(context)
    _write(pages / "index.html", page)
    return cards, example


def _write_images(
    folder: Path, model: ViewerModel, shown: Sequence[int], index: WordIndex, layer_map: LayerMap
) -> tuple[list[Card], ExampleWords | None]:
    """Write the scripts and pictures of the images, and add their words to the index and the map; as `write_model`."""
    pages, pictures = folder / model.folder, folder / "pictures"
    for name in ("images", "candidates"):
        (pages / name).mkdir(parents=True)
    cards, candidates, example = [], CandidateFiles(), None
    with _ScriptWriter() as writer:
        for image_id, reading in model.readings.readings(shown):
            writer.write(pages / "images" / f"{image_id:06d}.js", image_script(image_id, reading, candidates))
            if candidates.is_full:
                writer.write(pages / "candidates" / f"{candidates.number:04d}.js", candidates.script())
            index.add(image_id, reading)
            layer_map.add(reading)
            cards.append(_card(pictures, image_id, reading))
            example = example or _example(pictures, image_id, reading)
        writer.write(pages / "candidates" / f"{candidates.number:04d}.js", candidates.script())
    return cards, example


class _ScriptWriter:
    """Packs and writes scripts in a thread, for compression does not hold the interpreter; one waits at a time."""

    def __enter__(self) -> _ScriptWriter:
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[int] | None = None
        return self

    def write(self, path: Path, script: Callable[[], str]) -> None:
        """Write a script behind the one before. Raises what the writing of that one raised."""
        last = self._last
        self._last = self._pool.submit(lambda: path.write_bytes(script_file(script())))
        if last:
            last.result()

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()
        if self._last and error == (None, None, None):
            self._last.result()


def _card(pictures: Path, image_id: int, reading: ImageReading) -> Card:
    address = _written(pictures, reading.picture, "small", THUMBNAIL_SIDE) if reading.picture else None
    judged = len({verdict.patch for verdict in reading.verdicts})
    return Card(image_id, reading.name, reading.caption, address, judged)


def _example(pictures: Path, image_id: int, reading: ImageReading) -> ExampleWords | None:
    if reading.picture is None or not (found := example_words(image_id, reading)):
        return None
    return replace(found, picture=_written(pictures, reading.picture, "example", 2 * WIDTH))


def _written(pictures: Path, picture: Picture, name: str, side: int) -> str:
    """Write a small copy of a picture, unless another model has; returns its address."""
    file = f"{hashlib.sha256(picture.data).hexdigest()[:16]}-{name}.jpg"
    if not (pictures / file).exists():
        (pictures / file).write_bytes(thumbnail(picture, side))
    return f"pictures/{file}"


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "replace"))  # half surrogate pairs are no UTF-8
