"""Image pages beside each other in a real browser: a place chosen in one is chosen in the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lenscore.readings.image_reading import ImageReading
from lenscore.single_image.analyzed_image import AnalyzedImage
from lenscore.single_image.several_models import side_by_side
from lenscore.viewer.folder import write_viewer
from lenscore.viewer.shown_models import ViewerModel
from tests.image_pages import Page
from tests.made_readings import TILES, reading

with contextlib.suppress(ImportError):  # then the browser fixture skips
    from selenium.webdriver.common.keys import Keys

HOSTILE = '"><script>alert(1)</script>&amp;\u202e'
LAYERS = (0, 4, 8)
NARROW = (("global", 6, 4, (0.5, 0.0, 1.0, 1.0)),)
"""A model that sees the right half of an image alone."""


FINE = (("global", 21, 21, (0.0, 0.0, 1.0, 1.0)),)
MODELS = ((FINE, "fine"), (TILES, HOSTILE), (NARROW, "narrow"))


class Made:
    """Readings that nobody analysed, by image id."""

    has_texts = False

    def __init__(self, readings: dict[int, ImageReading]) -> None:
        self._readings, first = readings, next(iter(readings.values()))
        self.layers, self.lenses, self.top_k = first.layers, tuple(lens.lens for lens in first.lenses), first.top_k
        self.names, self.errors = {image_id: one.name for image_id, one in readings.items()}, {}
        self.image_ids = list(readings)

    def readings(self, image_ids: list[int]) -> Iterator[tuple[int, ImageReading]]:
        return ((image_id, self._readings[image_id]) for image_id in image_ids)


class Compared(Page):
    """The page, by what a person sees and does; `side` goes into a frame, whose page is then the one that is driven."""

    def side(self, place: int) -> Compared:
        self.browser.switch_to.default_content()
        self.browser.switch_to.frame(self.find(f"iframe[name=lenscore-side-{place}]"))
        self.wait(lambda: self.text("#name") not in ("", "…"))
        return self

    def around(self) -> Compared:
        self.browser.switch_to.default_content()
        return self

    def shows(self, place: int, where: str, layer: int) -> None:
        self.side(place).wait(lambda: self.place().startswith(f"{where} at layer {layer}"))


def made(name: str, layers: tuple[int, ...], views: Any, width: int = 480) -> ImageReading:
    return reading(name, layers, views, (width, 360), judged=0)


@pytest.fixture(scope="module")
def viewer(tmp_path_factory) -> Path:
    models = [
        ViewerModel(
            "fine", "1" * 16, Made({0: made("a.png", (0, 4, 8), FINE), 1: made("b.png", (0, 4, 8), FINE, 400)})
        ),
        ViewerModel(HOSTILE, "2" * 16, Made({5: made("c.png", (0, 3), TILES, 400), 7: made("d.png", (0, 3), TILES)})),
        ViewerModel("narrow", "3" * 16, Made({2: made("a.png", (0, 9), NARROW)})),
    ]
    return write_viewer(tmp_path_factory.mktemp("viewer") / "viewer", models, 10).with_name("compare.html")


@pytest.fixture
def page(browser: Any, viewer: Path) -> Iterator[Compared]:
    page = Compared(browser, viewer.as_uri())
    browser.get("about:blank")
    browser.get(page.address)
    yield page
    assert page.around().browser.get_log("browser") == []


def test_a_place_chosen_in_one_is_chosen_in_the_other(page):
    assert page.around().texts("#side-0 option") == ["fine", HOSTILE, "narrow"]
    page.shows(0, "Row 10, column 10", 4)
    page.shows(1, "Row 6, column 6 of global", 3)  # another model, another grid, the picture of the same pixels
    assert page.text("#name") == "d.png"
    page.point(0.9, 0.1, click=True)
    page.shows(1, "Row 1, column 10 of global", 3)
    page.shows(0, "Row 2, column 18", 4)  # the middle of that patch is at 0.875, 0.125
    assert page.text(".lock") == "locked"
    page.side(1).press(Keys.ARROW_DOWN)
    page.shows(0, "Row 4, column 18", 4)
    page.press("t")
    assert page.find("#table").is_displayed()
    page.side(1).wait(lambda: page.find("#table").is_displayed())
    page.choose("#lens", "1")
    page.choose("#colours", "entropy")
    page.side(0).wait(lambda: page.text("#legend strong") == "LogitLens")
    page.around().find("#together").click()
    page.side(0).choose("#lens", "2")
    page.point(0.9, 0.12, click=True)
    page.shows(1, "Row 1, column 10 of global", 3)
    assert page.text("#legend strong") == "LogitLens"


def test_images_models_layers_and_the_address(page):
    page.around().find("#next").click()
    page.side(1).wait(lambda: page.text("#name") == "c.png")
    page.side(0).wait(lambda: page.text("#name") == "b.png")
    assert page.around().text("#name") == "b.png"
    page.choose("#side-1 select", "narrow-333333")
    page.side(1).wait(lambda: "This picture is not among the images" in page.text("#notice"))
    page.around().find("#previous").click()
    page.side(1).wait(lambda: page.text("#notice") == "" and page.place().startswith("Row 3, column 0"))
    page.side(0).point(0.1, 0.9, click=True)
    page.side(1).wait(lambda: page.text("#notice") == "This model has no patch at this place.")
    page.side(0).press(",")
    page.around().wait(
        lambda: page.js("return location.hash").startswith("#left=fine-111111/0/0/0-18-2/latent/lock&right=")
    )
    address = page.js("return location.href")
    page.browser.get("about:blank")
    page.browser.get(address)
    page.shows(0, "Row 18, column 2", 0)
    page.side(1).wait(lambda: page.text("#about").startswith("narrow"))
    page.browser.switch_to.default_content()
    page.js("location.hash = 'left=fine-111111/0/8/0-3-3/latent&right=../../etc/0/0'")
    page.shows(0, "Row 3, column 3", 8)
    assert page.around().text("#notice") == "There is no run .. in this viewer."


def test_the_image_page_leads_to_itself_at_another_layer(page, viewer):
    page.browser.get(f"{viewer.parent.as_uri()}/fine-111111/image.html#1/4/0-2-3/logit")
    page.wait(lambda: page.text("#name") == "b.png")
    page.press("x")
    page.wait(lambda: "compare.html" in page.browser.current_url)
    page.shows(0, "Row 2, column 3", 4)
    page.shows(1, "Row 2, column 3", 8)
    assert page.text("#about").startswith("fine")
    page.press(",", Keys.ARROW_RIGHT)  # of the first side, at the beginning
    page.shows(0, "Row 2, column 4", 0)
    page.shows(1, "Row 2, column 4", 8)  # layers are each side's own


def test_a_phone_shows_one_model_at_a_time(page):
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        page.shows(0, "Row 10, column 10", 4)
        page.point(0.9, 0.1, click=True)
        first, second = page.around().browser.find_elements("css selector", "#frames section")
        assert [first.is_displayed(), second.is_displayed()] == [True, False]
        page.find("#tabs button + button").click()
        assert [first.is_displayed(), second.is_displayed()] == [False, True]
        assert page.js("return document.documentElement.scrollWidth <= window.innerWidth")
        page.shows(1, "Row 1, column 10 of global", 3)
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_one_file_holds_one_image_of_three_models(browser, tmp_path):
    images = [AnalyzedImage(made(HOSTILE, (0, 4), views), label, "0" * 64) for views, label in MODELS]
    (tmp_path / "page.html").write_text(side_by_side(images))
    page = Compared(browser, (tmp_path / "page.html").as_uri())
    browser.get("about:blank")
    browser.get(page.address)
    page.wait(lambda: page.text("#name") == HOSTILE)
    assert page.texts("#tabs button") == [label for _, label in MODELS]
    page.shows(2, "Row 3, column 0", 4)
    page.point(0.7, 0.2, click=True)
    page.shows(0, "Row 5, column 14", 4)
    page.shows(1, "Row 3, column 8 of global", 4)
    assert page.around().browser.get_log("browser") == []
