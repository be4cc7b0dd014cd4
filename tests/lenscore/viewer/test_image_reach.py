"""Who and what the image page reaches: screen readers, keyboards, phones, a single file, a notebook's frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lenscore.readings.image_reading import ImageReading
from lenscore.viewer.image_page import single_page
from tests.image_pages import Page, assert_shows, patch_at, write_folder
from tests.made_readings import TILES, reading

try:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys
except ImportError:
    pass  # then the browser fixture skips


@pytest.fixture(scope="module")
def readings() -> dict[int, ImageReading]:
    return {
        3: reading(),
        4: reading("tiles.png", views=TILES, size=(900, 600), seed=1, with_truth=True),
        9: reading("big.jpg", tuple(range(28)), (("global", 48, 60, (0, 0, 1, 1)),), (1200, 960), seed=3),
    }


@pytest.fixture(scope="module")
def folder(readings, tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("viewer"), readings)


@pytest.fixture
def page(browser: Any, folder: Path) -> Page:
    return Page(browser, folder.as_uri())


def test_a_screen_reader_hears_the_words_and_no_key_is_trapped(page: Page, readings) -> None:
    page.open("#3/8/0-9-9/latent")
    page.press(Keys.ARROW_RIGHT)
    lens = readings[3].lenses[0]
    word = lens.words[lens.which[4, patch_at(readings[3], 0, 9, 10), 0]].text
    page.wait(lambda: page.text("#live").startswith(f"Row 9, column 10, layer 8. LatentLens: “{word}”; LogitLens: "))
    assert page.find("#live").get_attribute("aria-live") == "polite"
    seen = []
    for _ in range(40):
        page.press(Keys.TAB)
        seen.append(page.js("return document.activeElement.id || document.activeElement.textContent.slice(0, 12)"))
        if seen.count(seen[0]) > 1:
            break
    assert {
        "layer",
        "lens",
        "colours",
        "stage",
        "mask",
        "help-button",
        "table-button",
        "png",
        "csv",
        "LogitLens",
    } <= set(seen)
    outline = "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, parseFloat(s.outlineWidth)]"
    style, width = page.js(outline)
    assert style != "none"
    assert width >= 1
    unnamed = """
        return [...document.querySelectorAll("button, input, select, canvas, [role]")].filter((one) =>
          one.checkVisibility() && !one.closest("[aria-hidden=true], #notice") && !one.ariaLabel && !one.title
          && !one.textContent.trim()
          && !(one.labels && one.labels.length) && !one.getAttribute("aria-labelledby")).map((one) => one.outerHTML)
    """
    assert page.js(unnamed) == []
    page.press("?")
    assert page.js("return document.querySelector('#help').open")
    page.press(Keys.ARROW_RIGHT)
    assert "column 10" in page.place()
    page.press(Keys.ESCAPE)
    assert not page.js("return document.querySelector('#help').open")


def test_phone_width(page: Page) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        for link in ("#3/8/0-9-9/latent/colours=context/table", "#9/8/0-9-9/latent/inside/colours=verdict", "#4"):
            page.open(link)
            assert page.js("return document.documentElement.scrollWidth") == 390
        page.open("#3/8/0-9-9/latent")
        ActionChains(page.browser).click(page.find("#pad [data-step=ArrowUp]")).perform()
        assert page.place().startswith("Row 8, column 9")
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_a_single_file_is_the_whole_page(browser: Any, tmp_path: Path, readings) -> None:
    file = tmp_path / "one <image>.html"
    file.write_text(single_page(readings[4], "</script><b>"), encoding="utf-8")
    assert "http" not in file.read_text(encoding="utf-8").replace("http://x", "").replace("https?|file", "")
    page = Page(browser, file.as_uri()).open("#0/8/3-1-1/latent")
    of = readings[4]
    assert_shows(page, of, patch_at(of, 3, 1, 1), 4)
    assert page.text("#about").startswith("</script><b> · 528 patches")
    assert not page.find("#leaf").is_displayed()
    # A notebook shows it in a frame without an address of its own.
    page.browser.get("about:blank")
    page.js(
        "const f = document.createElement('iframe'); f.srcdoc = arguments[0]; document.body.append(f)", file.read_text()
    )
    page.browser.switch_to.frame(0)
    page.wait(lambda: page.text("#name") == "tiles.png")
    page.press("?")
    page.js("change({ patch: 7 })")
    assert_shows(page, of, 7, 4)
    page.browser.switch_to.default_content()
    assert page.browser.get_log("browser") == []
