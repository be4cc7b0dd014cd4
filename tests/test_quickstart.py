"""examples/quickstart.ipynb runs from its first cell to its last, offline, soon enough for somebody who just came."""

from __future__ import annotations

import os
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"
CELL_SECONDS, SECONDS = 60, 90
"""For one cell, and for all of them on a machine that has other tests to run too (10 s where it has not)."""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[nbformat.NotebookNode, Path, float]:
    """The notebook after a run in a folder of its own, that folder, and the seconds it took."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = tmp_path_factory.mktemp("quickstart")
    start = time.monotonic()
    client = NotebookClient(notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": str(folder)}})
    client.execute(
        env=os.environ | {"OMP_NUM_THREADS": "1"}
    )  # torch's threads wait for one another where cores are busy
    return notebook, folder, time.monotonic() - start


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    return [
        out["data"][kind] for cell in notebook.cells for out in cell.get("outputs", []) if kind in out.get("data", {})
    ]


def test_every_cell_runs_in_time(executed) -> None:
    notebook, folder, seconds = executed
    assert seconds < SECONDS
    assert all(cell["execution_count"] for cell in notebook.cells if cell["cell_type"] == "code")
    assert not [out for cell in notebook.cells for out in cell.get("outputs", []) if out["output_type"] == "error"]
    with Image.open(folder / "quickstart.png") as figure, Image.open(NOTEBOOK.with_name("quickstart.png")) as committed:
        assert figure.size == committed.size


def test_it_shows_the_page_the_words_and_the_figure(executed, browser, tmp_path: Path) -> None:
    notebook = executed[0]
    page, words, rates = outputs(notebook, "text/html")
    assert page.startswith("<iframe srcdoc=")
    assert "crescent" in words
    assert "%</td>" in rates
    assert len(outputs(notebook, "image/png")) == 1
    (tmp_path / "output.html").write_text(f"<!doctype html><meta charset=utf-8>{page}", encoding="utf-8")
    browser.get_log("browser")
    browser.get((tmp_path / "output.html").as_uri())
    browser.switch_to.frame(browser.find_element("css selector", "iframe"))
    assert len(browser.find_elements("css selector", "#lenses article")) == 3
    assert "Truth" in browser.find_element("css selector", "#truth").text
    browser.switch_to.default_content()
    assert browser.get_log("browser") == []


def test_it_is_committed_without_outputs() -> None:
    """So that a change of a cell is a small difference; its one picture is a file beside it."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(
        not cell["outputs"] and cell["execution_count"] is None
        for cell in notebook.cells
        if cell["cell_type"] == "code"
    )
    assert "](quickstart.png)" in notebook.cells[0]["source"]
