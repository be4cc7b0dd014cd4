"""The image page in a browser: a folder of made readings, and the page as a person uses it."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import io
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lenscore.readings.image_reading import ImageReading
from lenscore.viewer.candidate_words import CandidateFiles, visible
from lenscore.viewer.image_page import PAGE_FILES, linked_page, page_file
from lenscore.viewer.page_data import image_script, run_script
from lenscore.viewer.script_bytes import script_file

try:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError:
    pass  # then the browser fixture skips

MODEL = "made/<b>model</b>"


def write_folder(folder: Path, readings: Mapping[int, ImageReading]) -> Path:
    """A viewer's folder with one run; returns its image.html."""
    for name in PAGE_FILES:
        (folder / Path(name).name).write_text(page_file(name), encoding="utf-8")
    run = folder / "run"
    (run / "images").mkdir(parents=True)
    (run / "image.html").write_text(linked_page("made images"), encoding="utf-8")
    candidates = CandidateFiles()
    for image_id, reading in readings.items():
        (run / f"images/{image_id:06d}.js").write_bytes(script_file(image_script(image_id, reading, candidates)()))
    first = next(iter(readings.values()))
    images = [(image_id, reading.name, None) for image_id, reading in readings.items()]
    lenses = [lens.lens for lens in first.lenses]
    (run / "candidates").mkdir()
    (run / "candidates/0000.js").write_bytes(script_file(candidates.script()()))
    (run / "run.js").write_text(run_script(MODEL, first.layers, lenses, first.top_k, images))
    return run / "image.html"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder on a web server of this machine; gives its address."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Page:
    """The page, by what a person sees and does."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser, self.address = browser, address
        browser.get_log("browser")

    def open(self, link: str = "", name: str | None = None) -> Page:
        """Open a link as if it were pasted into a new tab; waits for the image's name, or any."""
        self.browser.get("about:blank")
        self.browser.get(self.address + link)
        self.wait(lambda: self.text("#name") not in ("", "…") if name is None else self.text("#name") == name)
        return self

    def wait(self, condition: Any) -> None:
        WebDriverWait(self.browser, 10, poll_frequency=0.02).until(lambda _: condition())

    def js(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        return self.js(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent.toWellFormed())", selector
        )

    def text(self, selector: str) -> str:
        return next(iter(self.texts(selector)), "")

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def press(self, *keys: str) -> None:
        ActionChains(self.browser, duration=0).send_keys(*keys).perform()

    def point(self, x: float, y: float, click: bool = False) -> None:
        """Point at a place of the picture, given as shares of it."""
        stage = self.find("#stage")
        size = stage.size
        chain = ActionChains(self.browser, duration=0)
        chain.move_to_element_with_offset(stage, (x - 0.5) * size["width"], (y - 0.5) * size["height"])
        (chain.click() if click else chain).perform()

    def choose(self, selector: str, value: str) -> None:
        """Choose in a menu, as a person would: the page hears of it by the event."""
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change', {bubbles: true}))"
        self.js(script, self.find(selector), value)

    def words(self, lens: str) -> list[str]:
        return self.texts(f".lens[data-lens={lens}] .word")

    def place(self) -> str:
        return self.text("#place")

    def hash(self) -> str:
        """The address after "#", once it has caught up with what is shown."""
        self.wait(lambda: self.js("return location.hash === currentAddress()"))
        return self.js("return location.hash")

    def overlay(self) -> np.ndarray:
        """What lies over the picture; see `pixels`."""
        return self.pixels("#paint")

    def pixels(self, canvas: str) -> np.ndarray:
        """What is drawn: red, green, blue and alpha, uint8 [rows, columns, 4]."""
        data = self.js("return document.querySelector(arguments[0]).toDataURL()", canvas)
        return np.array(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGBA"))

    def chosen_cell(self) -> tuple[int, int]:
        """Patch and layer of the marked cell of the table."""
        where = "return [Number(arguments[0].parentElement.dataset.patch), arguments[0].cellIndex - 1]"
        return tuple(self.js(where, self.find("#table td.chosen")))

    def assert_quiet(self) -> None:
        """No error and no warning, nothing that a hostile word opened or added."""
        assert self.browser.get_log("browser") == []
        assert (
            self.js("return document.querySelectorAll('main script, main iframe, h1 b, #about b, .lens img').length")
            == 0
        )
        assert self.js("return [...document.images].every((image) => image.id === 'photo')")


def assert_shows(page: Page, of: ImageReading, patch: int, layer: int) -> None:
    """Words, ranks, scores, sentences, marks and contextual layers of every lens, against the reading."""
    view, row, column = of.places[patch].tolist()
    where = f"Row {row}, column {column}" + (f" of {of.views[view]}" if len(of.views) > 1 else "")
    assert page.place().startswith(f"{where} at layer {of.layers[layer]}")
    for lens in of.lenses:
        ids = [i for i in lens.which[layer, patch].tolist() if i >= 0]
        card = f".lens[data-lens={lens.lens}]"
        assert page.words(lens.lens) == [visible(shown(lens.words[i].text)) for i in ids]
        assert page.texts(f"{card} .rank") == [str(rank + 1) for rank in range(len(ids))]
        scores = [float(text.replace("−", "-")) for text in page.texts(f"{card} .score")]
        assert scores == pytest.approx(lens.scores[layer, patch, : len(ids)].tolist(), abs=0.006)
        if lens.contextual_layers is not None:
            contexts = lens.contextual_layers[layer, patch, : len(ids)].tolist()
            assert page.texts(f"{card} .context") == [f"L{context}" for context in contexts]
            words = [lens.words[i] for i in ids]
            marks = [visible(word.sentence[word.start : word.end]) for word in words]
            assert page.texts(f"{card} mark") == [shown(mark) for mark in marks]
            if all(word.text.strip() for word in words):
                assert page.texts(f"{card} .sentence") == [shown(word.sentence) for word in words]


def shown(text: str) -> str:
    """What a driver returns for a text: half a surrogate pair cannot travel."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def patch_at(of: ImageReading, view: int, row: int, column: int) -> int:
    return int(np.flatnonzero((of.places == [view, row, column]).all(axis=1))[0])
