"""The pages' scripts, checked against the types that their comments name."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import lenscore.viewer
from lenscore.viewer.compare_page import COMPARE_FILES
from lenscore.viewer.folder import SITE_FILES
from lenscore.viewer.image_page import PAGE_FILES
from lenscore.viewer.text_page import TEXT_FILES
from lenscore.viewer.word_page import WORD_FILES

TEMPLATES = Path(lenscore.viewer.__file__).parent / "templates"
TYPESCRIPT = "typescript@5.9.3"


def test_every_script_belongs_to_one_page() -> None:
    scripts = sorted(str(path.relative_to(TEMPLATES)) for path in TEMPLATES.rglob("*.js"))
    own = [name for name in WORD_FILES if name not in PAGE_FILES]  # the others are those of the image page
    of_pages = sorted(
        name for name in (*PAGE_FILES, *SITE_FILES, *TEXT_FILES, *COMPARE_FILES, *own) if name.endswith(".js")
    )
    for shared in ("data/packed.js", "panels/element.js", "panels/element.js", "picture/image-colours.js"):
        of_pages.remove(shared)  # of several pages
    assert scripts == of_pages
    assert len({Path(name).name for name in scripts}) == len(scripts)  # they lie side by side in a viewer's folder


@pytest.mark.parametrize("name", sorted(path.name for path in TEMPLATES.glob("jsconfig*.json")))
def test_types_of_the_pages(name: str) -> None:
    npx = shutil.which("npx")
    if npx is None:
        message = "needs node with npm (apt-get install nodejs npm)"
        pytest.fail(message) if os.environ.get("CLUSTER_TESTS") == "require" else pytest.skip(message)
    command = [npx, "--yes", "-p", TYPESCRIPT, "tsc", "-p", str(TEMPLATES / name)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if "npm error" in checked.stderr and os.environ.get("CLUSTER_TESTS") != "require":
        pytest.skip(f"npm cannot get {TYPESCRIPT}: {checked.stderr.strip().splitlines()[0]}")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_no_script_can_end_the_page_that_holds_it() -> None:
    for name in (*PAGE_FILES, *TEXT_FILES, *WORD_FILES, *COMPARE_FILES):
        text = (TEMPLATES / name).read_text(encoding="utf-8").lower()
        assert "</" not in text
        assert "<!--" not in text
