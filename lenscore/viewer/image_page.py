"""The image page as HTML: beside its data in a viewer's folder, or alone with everything inside.

    viewer/<run>/image.html      linked_page; PAGE_FILES lie in viewer/, run.js, images/ and candidates/ beside the page
    anywhere.html                single_page; one image with everything inside

The scripts are not modules, because modules do not load from file://.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lenscore.readings.image_reading import ImageReading
from lenscore.viewer.candidate_words import CandidateFiles
from lenscore.viewer.page_data import image_script, run_script

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("lenscore.viewer"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_IMAGE_ID = 0  # of the image in a stand-alone page


@functools.cache
def page_file(name: str) -> str:
    """Returns the text of a file of templates/."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def scripts_of(config: str) -> tuple[str, ...]:
    """Returns the scripts that a jsconfig file of templates/ lists, in the order in which a page loads them."""
    return tuple(json.loads(page_file(config))["files"])


_STYLES = ("viewer.css", "image.css")
_SCRIPTS = scripts_of("jsconfig.json")
_LOADERS = _SCRIPTS[:2]  # before the data
PAGE_FILES = _STYLES + _SCRIPTS
"""Files of templates/; a viewer's folder holds them side by side, beside its runs' folders."""


def linked_page(title: str) -> str:
    """Returns ``<run>/image.html``: the page for every image of a run. The part of its address after # names one."""
    scripts = [Path(name).name for name in _SCRIPTS]
    return _page(title=title, styles=_STYLES, scripts=scripts, inline=None, index="index.html")


def single_page(reading: ImageReading, model: str) -> str:
    """Returns one HTML file with the page of one image, its data, styles and scripts."""
    lenses = [lens.lens for lens in reading.lenses]
    candidates = CandidateFiles()
    run = run_script(model, reading.layers, lenses, reading.top_k, [(_IMAGE_ID, reading.name, None)])
    inline = {
        "style": "\n".join(map(page_file, _STYLES)),
        "before": "\n".join(map(page_file, _LOADERS)),
        "data": run + image_script(_IMAGE_ID, reading, candidates)() + candidates.script()(),
        "after": "\n".join(map(page_file, _SCRIPTS[len(_LOADERS) :])),
    }
    # Safe: files of this package, and data in which script_json leaves no "<".
    safe = {name: Markup(text) for name, text in inline.items()}  # noqa: S704
    return _page(title=f"{reading.name} · {model}", styles=(), scripts=(), inline=safe, index=None)


def _page(**context: Any) -> str:
    return TEMPLATES.get_template("image_page.html").render(**context)
