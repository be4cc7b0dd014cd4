"""Image pages beside each other, in frames that tell each other which place of the picture was chosen.

    viewer/compare.html    linked_comparison; two runs of a viewer, or one at two layers
    anywhere.html          single_comparison; one image and several models, with everything inside

It needs no data of its own: the same picture of two runs has a thumbnail of the same name, and what was chosen travels
as a point of the picture (templates/controls/image-together.js).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from lenscore.viewer.image_page import TEMPLATES, page_file, scripts_of

_SCRIPTS = scripts_of("jsconfig.compare.json")
COMPARE_FILES = ("viewer.css", "compare/compare.css", *_SCRIPTS)
"""Files of templates/; a viewer's folder holds them side by side."""


def linked_comparison(runs: Sequence[tuple[str, str]]) -> str:
    """Returns ``compare.html`` of a viewer, for runs as (folder, label).

    The part of its address after # names what stands left and right: left=FOLDER/12/8/0-3-5/latent&right=FOLDER/...
    """
    styles, scripts = ([Path(name).name for name in COMPARE_FILES if name.endswith(end)] for end in (".css", ".js"))
    sides = [{"label": label} for label in ("left", "right")]
    return _page(title="Side by side", name="Side by side", sides=sides, runs=runs, styles=styles, scripts=scripts)


def single_comparison(name: str, pages: Sequence[tuple[str, str]]) -> str:
    """Returns one HTML file with the stand-alone pages of one image (label of the model, HTML) beside each other."""
    inline = {
        "style": "\n".join(page_file(name) for name in COMPARE_FILES if name.endswith(".css")),
        "script": "\n".join(map(page_file, _SCRIPTS)),
    }
    safe = {kind: Markup(text) for kind, text in inline.items()}  # noqa: S704 (files of this package)
    sides = [{"label": label, "page": page} for label, page in pages]
    title = " · ".join([name, *(label for label, _ in pages)])
    return _page(title=title, name=name, sides=sides, inline=safe)


def _page(**context: object) -> str:
    return TEMPLATES.get_template("compare/compare.html").render({"inline": None, **context})
