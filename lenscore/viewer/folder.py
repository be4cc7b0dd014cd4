"""The viewer: static pages that show, for every patch of an image, what each lens says at each layer.

It opens from the disk without a server or a network. Every text goes through Jinja's escaping or reaches the page as
textContent, so a hostile word of a corpus stays a word.

    viewer/index.html                      the models
    viewer/<model>/index.html              its images, rates by layer, and the search for a word
    viewer/<model>/image.html              the page of every image; which one is said in the address, behind the #
    viewer/<model>/run.js images/000012.js words/*.js       data, loaded on demand
    viewer/pictures/<hash>-small.jpg       thumbnails
    viewer/*.css *.js
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import jinja2

from lenscore.readings.image_reading import ImageReading
from lenscore.viewer.browser_pictures import thumbnail
from lenscore.viewer.image_page import PAGE_FILES, linked_page
from lenscore.viewer.index_page import index_context
from lenscore.viewer.layer_map import LayerMap
from lenscore.viewer.model_page import Card, model_context
from lenscore.viewer.page_data import image_script, run_script
from lenscore.viewer.shown_models import ViewerModel
from lenscore.viewer.word_index import WordIndex

SITE_FILES = ("viewer.css", "site.css", "word-index.js", "word-search.js", "image-cards.js")

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("lenscore.viewer"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_viewer(folder: Path, models: Sequence[ViewerModel], max_images: int) -> Path:
    """Write the viewer into a new folder and return its index.html.

    At most ``max_images`` images of each model are shown: judged ones first, then in the order of the run.
    """
    folder.mkdir(parents=True)
    for name in dict.fromkeys((*SITE_FILES, *PAGE_FILES)):
        source, _, _ = _TEMPLATES.loader.get_source(_TEMPLATES, name)  # type: ignore[union-attr]
        _write(folder / name, source)
    (folder / "pictures").mkdir()
    cards = [_write_model(folder, model, max_images) for model in models]
    index = folder / "index.html"
    _write(index, _TEMPLATES.get_template("index.html").render(index_context(models, cards)))
    return index


def _write_model(folder: Path, model: ViewerModel, max_images: int) -> list[Card]:
    """Everything of one model; returns what its page shows of the images."""
    readings = model.readings
    pages = folder / model.folder
    (pages / "images").mkdir(parents=True)
    shown = model.chosen(max_images)
    index, layer_map, cards = WordIndex(readings.layers, readings.lenses), LayerMap(readings.layers), []
    for image_id, reading in readings.readings(shown):
        (pages / "images" / f"{image_id:06d}.js").write_bytes(image_script(image_id, reading))
        index.add(image_id, reading)
        layer_map.add(reading)
        cards.append(_card(folder / "pictures", image_id, reading))
    index.write(pages / "words")
    leaves = [(card.image_id, card.name, card.thumbnail and f"../{card.thumbnail}") for card in cards]
    run = run_script(model.label, readings.layers, readings.lenses, readings.top_k, leaves)
    (pages / "run.js").write_bytes(run)
    _write(pages / "image.html", linked_page(model.label))
    page = _TEMPLATES.get_template("model.html").render(model_context(model, cards, layer_map))
    _write(pages / "index.html", page)
    return cards


def _card(pictures: Path, image_id: int, reading: ImageReading) -> Card:
    address = None
    if reading.picture is not None:
        name = f"{hashlib.sha256(reading.picture.data).hexdigest()[:16]}-small.jpg"
        if not (pictures / name).exists():
            (pictures / name).write_bytes(thumbnail(reading.picture))
        address = f"pictures/{name}"
    judged = len({verdict.patch for verdict in reading.verdicts})
    return Card(image_id, reading.name, reading.caption, address, judged)


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "replace"))  # half surrogate pairs are no UTF-8
