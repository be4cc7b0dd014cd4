"""The image page as HTML: beside its data in a viewer's folder, or alone with everything inside.

    viewer/<run>/image.html      linked_page; PAGE_FILES lie in viewer/, run.js and images/NNNNNN.js beside the page
    anywhere.html                single_page; one image, nothing else is needed

The page's own scripts are plain ones, because modules do not load from file://.
"""

from __future__ import annotations

import jinja2
from markupsafe import Markup

from lenscore.readings.image_reading import ImageReading
from lenscore.viewer.page_data import image_script, run_script

_STYLES = ("viewer.css", "image.css")
_SCRIPTS = (
    "image-loading.js",
    "image-data.js",
    "image-colours.js",
    "image-kinds.js",
    "image-measures.js",
    "image-address.js",
    "image-picture.js",
    "image-legend.js",
    "image-words.js",
    "image-table.js",
    "image-csv.js",
    "image-pen.js",
    "image-png.js",
    "image-state.js",
    "image-drawing.js",
    "image-opening.js",
    "image-controls.js",
)
PAGE_FILES: tuple[str, ...] = _STYLES + _SCRIPTS
"""Files of templates/ that a viewer's folder must hold beside its runs' folders."""

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("lenscore.viewer"), autoescape=True, undefined=jinja2.StrictUndefined
)
_IMAGE_ID = 0  # of the one image of a page that stands alone


def linked_page(title: str) -> str:
    """``<run>/image.html``: the page for every image of a run; its address says after # which one is meant."""
    return _TEMPLATES.get_template("image_page.html").render(
        title=title, styles=_STYLES, scripts=_SCRIPTS, inline=None, index="index.html"
    )


def single_page(reading: ImageReading, model: str) -> str:
    """One HTML file with the page of one image, its data, styles and scripts inside."""
    lenses = [lens.lens for lens in reading.lenses]
    run = run_script(model, reading.layers, lenses, reading.top_k, [(_IMAGE_ID, reading.name, None)])
    data = run + image_script(_IMAGE_ID, reading)
    return _TEMPLATES.get_template(
        "image_page.html"
    ).render(
        title=f"{reading.name} · {model}",
        styles=(),
        scripts=(),
        inline={
            "style": Markup("\n".join(page_file(name) for name in _STYLES)),  # noqa: S704 - files of ours
            "before": Markup(page_file(_SCRIPTS[0])),  # noqa: S704
            "data": Markup(data.decode()),  # noqa: S704 - script_json leaves no "<" in it
            "after": Markup("\n".join(page_file(name) for name in _SCRIPTS[1:])),  # noqa: S704
        },
        index=None,
    )


def page_file(name: str) -> str:
    """The text of one of ``PAGE_FILES``."""
    source, _, _ = _TEMPLATES.loader.get_source(_TEMPLATES, name)  # type: ignore[union-attr]
    return source
