"""The page in a notebook's frame, in a real browser: it works there, and neither it nor a word reaches the notebook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lenscore.readings.image_reading import ImageReading
from lenscore.single_image.analyzed_image import AnalyzedImage

try:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError:
    pass  # then the browser fixture skips

NOTEBOOK = """<!doctype html><meta charset="utf-8"><title>notebook</title>
<style>h1 {{ color: rgb(1, 2, 3) }}</style>
<script>var keys = 0, lost = 0;
addEventListener("keydown", () => keys += 1); addEventListener("message", () => lost += 1);</script>
<h1>notebook</h1><div class="jp-OutputArea">{output}</div><footer>after</footer>"""


@pytest.fixture
def notebook(browser: Any, hostile_reading: ImageReading, tmp_path: Path) -> Any:
    """The browser, inside the frame of an output."""
    output = AnalyzedImage(hostile_reading, "org/<model>", "ab")._repr_html_()
    path = tmp_path / "notebook.html"
    path.write_text(NOTEBOOK.format(output=output), encoding="utf-8")
    browser.get_log("browser")
    browser.get(path.as_uri())
    (frame,) = browser.find_elements("css selector", "iframe")
    browser.switch_to.frame(frame)
    browser.implicitly_wait(5)
    browser.find_element("css selector", "#lenses article")
    browser.implicitly_wait(0)
    yield browser
    browser.switch_to.default_content()


def press(browser: Any, *keys: str) -> None:
    ActionChains(browser, duration=0).send_keys(*keys).perform()


def texts(browser: Any, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent)"
    return browser.execute_script(script, selector)


def test_the_page_works_in_its_frame(notebook: Any, hostile_reading: ImageReading) -> None:
    browser = notebook
    assert browser.execute_script("return document.querySelector('#photo').naturalWidth") == 720
    browser.find_element("css selector", "#stage").click()
    places = [texts(browser, "#place")[0]]
    for key in (Keys.ARROW_LEFT, Keys.ARROW_UP, "."):
        press(browser, key)
        places.append(texts(browser, "#place")[0])
    assert len(set(places)) == 4
    row, col, layer = map(int, re.match(r"Row (\d+), column (\d+) at layer (\d+)", places[-1]).groups())
    assert layer > 0
    logit = hostile_reading.lenses[1]
    which = logit.which[hostile_reading.layers.index(layer), 6 * row + col]
    assert texts(browser, "[data-lens=logit] .word") == [_shown(logit.words[one].text) for one in which]
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def _shown(text: str) -> str:
    """Blanks as the page shows them."""
    return {" ": "␣", "\n": "⏎", "": "(empty)"}.get(text, text)


def test_nothing_reaches_the_notebook(notebook: Any) -> None:
    browser = notebook
    browser.find_element("css selector", "#stage").click()
    press(browser, Keys.ARROW_RIGHT, "t", "m", Keys.ESCAPE)
    reach = "try { parent.document.title; return 'reached' } catch (error) { return error.name }"
    assert browser.execute_script(reach) == "SecurityError"
    assert (
        browser.execute_script("return document.querySelectorAll('main b, main i, main iframe, script[src]').length")
        == 0
    )
    browser.switch_to.default_content()
    assert browser.execute_script("return [keys, lost, typeof window.lenscore]") == [0, 0, "undefined"]
    assert browser.execute_script("return getComputedStyle(document.querySelector('h1')).color") == "rgb(1, 2, 3)"
    assert texts(browser, "footer") == ["after"]
    assert browser.find_element("css selector", "iframe").size["height"] == pytest.approx(722, abs=4)
    assert browser.get_log("browser") == []


def test_csv_and_png_can_be_saved_from_the_frame(notebook: Any, tmp_path: Path) -> None:
    browser, downloads = notebook, tmp_path / "downloads"
    behaviour = {"behavior": "allow", "downloadPath": str(downloads)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    for button, ending in (("#csv", ".csv"), ("#png", ".png")):
        browser.find_element("css selector", button).click()
        WebDriverWait(browser, 10).until(lambda _, ending=ending: list(downloads.glob(f"*{ending}")))
    assert browser.get_log("browser") == []
