"""The image page in a real browser: what it shows is what the reading says, and every way through it works."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from lenscore.readings.image_reading import ImageReading
from tests.image_pages import Page, assert_shows, patch_at, served, shown, write_folder
from tests.made_readings import HOSTILE, TILES, reading

with contextlib.suppress(ImportError):  # then the browser fixture skips
    from selenium.webdriver.common.keys import Keys

SAFE = "!~*'()"  # what JavaScript leaves as it is
BIG_LAYERS = tuple(range(28))


@pytest.fixture(scope="module")
def readings() -> dict[int, ImageReading]:
    return {
        3: reading(),
        4: reading(name="tiles.png", views=TILES, size=(900, 600), seed=1, with_truth=True),
        8: reading(
            "gone \u202e.png",
            (0, 5),
            (("global", 4, 6, (0, 0, 1, 1)),),
            with_picture=False,
            padding=True,
            seed=2,
            judged=0,
        ),
        9: reading("big.jpg", BIG_LAYERS, (("global", 48, 60, (0, 0, 1, 1)),), (1200, 960), seed=3),
    }


@pytest.fixture(scope="module")
def folder(readings, tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("viewer"), readings)


@pytest.fixture
def page(browser: Any, folder: Path) -> Page:
    return Page(browser, folder.as_uri())


@pytest.fixture(params=["file", "http"])
def anywhere(request, browser: Any, folder: Path) -> Iterator[Page]:
    if request.param == "file":
        yield Page(browser, folder.as_uri())
        return
    with served(folder.parents[1]) as address:
        yield Page(browser, f"{address}/run/image.html")


def test_pointer_keys_and_slider(anywhere: Page, readings) -> None:
    page, of = anywhere.open("#3/8/0-9-9"), readings[3]
    layer = of.layers.index(8)
    assert_shows(page, of, patch_at(of, 0, 9, 9), layer)
    page.point(5.5 / 24, 2.5 / 24)
    assert_shows(page, of, patch_at(of, 0, 2, 5), layer)
    page.point(23.5 / 24, 0.5 / 24, click=True)
    page.point(0.5 / 24, 0.5 / 24)
    assert_shows(page, of, patch_at(of, 0, 0, 23), layer)
    assert "locked" in page.place()
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_LEFT, ",", ",", ".")
    assert_shows(page, of, patch_at(of, 0, 2, 22), layer - 1)
    page.press(*[Keys.ARROW_RIGHT] * 4)
    assert_shows(page, of, patch_at(of, 0, 2, 23), layer - 1)
    page.press(Keys.ESCAPE)
    page.point(0.5 / 24, 0.5 / 24)
    assert_shows(page, of, 0, layer - 1)
    slider = page.find("#layer")
    slider.send_keys(Keys.END)
    assert_shows(page, of, 0, len(of.layers) - 1)
    assert slider.get_attribute("aria-valuetext") == "layer 31"
    slider.send_keys(Keys.ARROW_LEFT)
    assert_shows(page, of, 0, len(of.layers) - 2)
    assert page.hash() == "#3/30/0-0-0/latent"
    for button in page.browser.find_elements("css selector", ".lens[data-lens=logit] .strip button")[:1]:
        button.click()
    assert_shows(page, of, 0, 0)
    page.assert_quiet()


def test_links_restore_everything_and_history_works(anywhere: Page, readings) -> None:
    link = "#4/16/2-3-5/logit/colours=confidence/lock/mask/inside/nogrid/table"
    page, of = anywhere.open(link), readings[4]
    assert page.hash() == link
    assert page.text("#notice") == ""
    assert_shows(page, of, patch_at(of, 2, 3, 5), of.layers.index(16))
    pressed = {
        one: page.find(f"#{one}").get_attribute("aria-pressed") for one in ("mask", "inside", "grid", "table-button")
    }
    assert pressed == {"mask": "true", "inside": "true", "grid": "false", "table-button": "true"}
    assert page.find("#colours").get_property("value") == "confidence"
    assert page.chosen_cell() == (patch_at(of, 2, 3, 5), 5)
    page.press("p")
    page.wait(lambda: page.text("#name") == readings[3].name)
    assert page.hash().startswith("#3/16/")
    assert page.hash().endswith("/logit/colours=confidence/lock/mask/inside/nogrid/table")
    assert page.browser.title == f"{readings[3].name} · made/<b>model</b>"
    page.browser.back()
    page.wait(lambda: page.text("#name") == "tiles.png")
    assert page.hash() == link
    page.browser.forward()
    page.wait(lambda: page.text("#name") == readings[3].name)
    page.js("location.hash = '#9/27/0-47-59/embedding'")
    page.wait(lambda: page.text("#name") == "big.jpg")
    assert_shows(page, readings[9], 48 * 60 - 1, 27)
    page.assert_quiet()


# What a link asks for, what is said, and the address of what is shown instead.
WRONG_LINKS = [
    ("3/7/0-1-1/logit", "There is no layer 7 (there are 0, 1, 2, 4, 8, 16, 24, 30, 31); layer 8 is", "3/8/0-1-1/logit"),
    ("3/8/0-99-2/latent", "There is no patch 0-99-2 in this image; 0-23-2 is shown.", "3/8/0-23-2/latent"),
    ("3/8/0-1-1/tuned", "There is no lens “tuned” (there are latent, logit, embedding); latent is", "3/8/0-1-1/latent"),
    ("5/8/0-1-1/latent", "There is no image 5 in this viewer; image 4 is shown.", "4/8/0-1-1/latent"),
    ("3/x/0-1-1/latent", "This link names the layer “x”, which is not a number.", "3/8/0-1-1/latent"),
    ("3/8/0-1-1/logit/colours=context", "LogitLens has no colours for “contextual layer of the best word”", None),
    ("3/8/0-1-1/logit/colours=__proto__", "There are no colours “__proto__” (there are", "3/8/0-1-1/logit"),
    ("3/8/0-1-1/%3Cb%3E", "There is no lens “<b>” (there are latent, logit, embedding);", "3/8/0-1-1/latent"),
    ("3/8/0-1-1/logit/up", "This link names a way to look “up”, which is not one of", "3/8/0-1-1/logit"),
    ("%E0%A4%A", "This link names the image “%E0%A4%A”, which is not a number.", None),
]  # fmt: skip


@pytest.mark.parametrize(("link", "sentence", "shown_instead"), WRONG_LINKS, ids=range(len(WRONG_LINKS)))
def test_a_wrong_link_says_so_in_one_line(page: Page, link: str, sentence: str, shown_instead: str | None) -> None:
    page.open(f"#{link}")
    assert page.text("#notice").startswith(sentence)
    assert "\n" not in page.text("#notice")
    assert shown_instead is None or page.hash() == f"#{shown_instead}"
    page.press("n")
    page.wait(lambda: page.text("#notice") == "")
    page.assert_quiet()


def test_missing_data_are_named(page: Page, folder: Path) -> None:
    file = folder.parent / "images/000008.js"
    data = file.read_bytes()
    page.open("#4")
    page.wait(lambda: page.js("return lenscore.images.has(8)"))  # preloaded, which must not happen after the removal
    page.js("lenscore.images.clear()")
    file.unlink()
    try:
        page.js("location.hash = '#8'")
        page.wait(lambda: page.text("#notice") != "")
        assert (
            page.text("#notice") == "Image 8 cannot be shown: images/000008.js cannot be read. Is the folder complete?"
        )
    finally:
        file.write_bytes(data)
    assert [entry["level"] for entry in page.browser.get_log("browser")] == ["SEVERE"]  # the browser's own line


def test_tiles_lie_side_by_side_and_arrows_cross_them(page: Page, readings) -> None:
    of = readings[4]
    page.open("#4/8/0-0-0/latent")
    assert page.texts("#views button") == ["global", "6 tiles"]
    page.press("v")
    assert_shows(page, of, patch_at(of, 1, 0, 1), 4)  # the tile's patch in the middle of the coarse one
    page.press(*[Keys.ARROW_RIGHT] * 7)
    assert_shows(page, of, patch_at(of, 2, 0, 0), 4)
    page.press(*[Keys.ARROW_DOWN] * 9)
    assert_shows(page, of, patch_at(of, 5, 1, 0), 4)
    page.press("v")
    assert_shows(page, of, patch_at(of, 0, 7, 4), 4)
    page.assert_quiet()


def test_truth_and_verdicts_stand_beside_the_words(page: Page, readings) -> None:
    of = readings[4]
    patch = min(verdict.patch for verdict in of.verdicts)
    page.open("#4")  # opens at the first judged patch
    layer = len(of.layers) // 2
    assert_shows(page, of, patch, layer)
    thing, percent = of.truth.things[of.truth.which[patch]], round(100 * float(of.truth.share[patch]))
    assert page.text("#truth").startswith(f"Truth: {thing.kind} on {percent} % of the patch")
    assert all(word in page.text("#truth") for words in thing.aspects.values() for word in words)
    judged = sorted({verdict.patch for verdict in of.verdicts})
    page.press("j")
    assert_shows(page, of, judged[1], layer)
    page.js("change({ patch: arguments[0] })", judged[0])
    links = page.js("return [...document.querySelectorAll('.word a')].map((link) => [link.textContent, link.hash])")
    assert len(links) > 3
    assert all(hash == f"#word={quote(word, safe=SAFE)}" for word, hash in links)
    for lens in of.lenses:
        said = [v for v in of.verdicts if (v.patch, v.layer, v.lens) == (patch, of.layers[layer], lens.lens)]
        lines = page.texts(f".lens[data-lens={lens.lens}] .verdict")
        outcomes = {"yes": "a word is right", "no": "no word is right"}
        expected = [
            f"{'the exact truth' if v.judge == 'truth' else f'judge {v.judge}'}: {outcomes.get(v.outcome, v.outcome)}"
            for v in said
        ]
        assert [line.partition(",")[0] for line in lines] == expected
        for line, verdict in zip(lines, said, strict=True):
            assert all(
                f"{kind} {', '.join(words)}" in shown(line) or "\ud800" in words[0]
                for kind, words in verdict.kinds.items()
            )
    page.assert_quiet()


def test_hostile_words_and_names_are_inert(page: Page, readings) -> None:
    of, logit = readings[3], readings[3].lenses[1]
    for word in HOSTILE:
        place = next(i for i, known in enumerate(logit.words) if known.text == word)
        layer, patch, _ = np.argwhere(logit.which == place)[0].tolist()
        row, column = of.places[patch, 1:].tolist()
        page.open(f"#3/{of.layers[layer]}/0-{row}-{column}/logit/inside/table")
        assert_shows(page, of, patch, layer)
        assert page.js("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        page.assert_quiet()
    page.open("#8/5/0-3-1/latent")
    assert page.text("#name") == "gone \u202e.png"
    assert "The image file is gone" in page.text("#gone")
    assert "(padding: no part of the image)" in page.place()
    page.assert_quiet()
