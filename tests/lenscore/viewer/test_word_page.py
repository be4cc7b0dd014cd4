"""The page of chosen words in a real browser: map, colour bar, numbers, keys, address; words that try to be HTML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lenscore.readings.image_reading import ImageReading
from lenscore.readings.word_reading import WordReading
from lenscore.viewer.word_page import word_page
from tests import made_readings
from tests.image_pages import Page

WORDS = ("boat", "</script><script>alert(1)</script><b>x</b>", "hot dog")
LAYERS = (0, 4, 31)
VIRIDIS_ENDS = [68, 1, 84], [253, 231, 37]


def reading() -> ImageReading:
    return made_readings.reading(layers=LAYERS, views=(("global", 4, 6, (0, 0, 1, 1)),), judged=0)


def lenses() -> tuple[WordReading, ...]:
    rng = np.random.default_rng(2)
    shape = (len(WORDS), len(LAYERS), 24)
    latent = rng.uniform(-0.2, 0.9, shape).astype(np.float32)
    latent[2] = np.nan  # no row is this word
    ranks = rng.integers(1, 20_000, shape)
    rows = np.where(np.isnan(latent), 0, ranks)
    contexts = np.where(np.isnan(latent), -1, rng.integers(1, 9, shape)).astype(np.int16)
    shares = 10 ** rng.uniform(-9, 0, shape).astype(np.float32)
    shares[2] = np.nan  # of several tokens
    return (
        WordReading("latent", ("7 rows", "1 row", ""), 20_000, latent, rows, None, contexts),
        WordReading(
            "logit", ("▁boat", "<b>", "▁hot + ▁dog"), 32_000, rng.normal(0, 9, shape).astype("f4"), ranks, shares
        ),
    )


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Page:
    (tmp_path / "words.html").write_text(word_page(reading(), WORDS, lenses(), "made/<b>model</b>"), encoding="utf-8")
    return Page(browser, (tmp_path / "words.html").as_uri())


def opened(page: Page, link: str = "") -> Page:
    page.browser.get("about:blank")
    page.browser.get(page.address + link)
    page.wait(lambda: page.texts("#numbers tbody tr"))
    return page


def numbers(page: Page) -> list[list[str]]:
    rows = "return [...document.querySelectorAll('#numbers tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    return page.js(rows)


def value(text: str) -> float:
    return float(text.replace("−", "-").replace(",", "").removeprefix("L"))


def test_the_numbers_are_those_of_the_lenses(page: Page) -> None:
    opened(page, "#word=boat&lens=logit&layer=4&patch=0-2-3&map=probability")
    latent, logit = lenses()
    assert latent.contextual_layers is not None
    assert logit.probabilities is not None
    patch = 2 * 6 + 3
    (title, sought, score, share, rank, context), of_logit = numbers(page)
    assert (title, sought, share) == ("LatentLens", "7 rows", "–")
    assert value(score) == pytest.approx(latent.scores[0, 1, patch], rel=6e-3)
    assert value(rank) == latent.ranks[0, 1, patch]
    assert value(context) == latent.contextual_layers[0, 1, patch]
    assert of_logit[:2] == ["LogitLens", "▁boat"]
    assert value(of_logit[2]) == pytest.approx(logit.scores[0, 1, patch], rel=6e-3)
    assert value(of_logit[3]) == pytest.approx(logit.probabilities[0, 1, patch], rel=0.5)
    assert value(of_logit[4]) == logit.ranks[0, 1, patch]
    assert of_logit[5] == "–"
    by_layer = [value(text) for text in page.texts("#by-layer tbody td")]
    assert by_layer == pytest.approx(logit.probabilities[0, :, patch].tolist(), rel=0.5)
    assert page.text("#place").startswith("Row 2, column 3 at layer 4")


@pytest.mark.parametrize("name", ["score", "probability", "rank"])
def test_colours_and_colour_bar(page: Page, name: str) -> None:
    opened(page, f"#word=boat&lens=logit&layer=31&map={name}")
    page.js("arguments[0].value = 100; arguments[0].dispatchEvent(new Event('input'))", page.find("#strength"))
    logit = lenses()[1]
    values = {"score": logit.scores, "probability": logit.probabilities, "rank": logit.ranks}[name][0].astype(float)
    bar = [value(text) for text in page.texts(".colour-bar .numbers span")]
    ends = [values.min(), values.max()] if name != "rank" else [values.max(), values.min()]
    assert [bar[0], bar[-1]] == pytest.approx(ends, rel=0.5 if name == "probability" else 6e-3)
    middle = np.mean(ends) if name == "score" else np.sqrt(np.prod(ends))
    assert bar[2] == pytest.approx(middle, rel=0.5, abs=0.02)
    overlay = page.overlay()
    high, wide = overlay.shape[:2]

    def colour(patch: int) -> np.ndarray:
        row, column = divmod(patch, 6)
        return overlay[int((row + 0.5) * high / 4), int((column + 0.5) * wide / 6), :3]

    order = np.argsort(values[2]) if name != "rank" else np.argsort(-values[2])
    lightness = [colour(int(patch)) @ [0.2126, 0.7152, 0.0722] for patch in order]
    assert (np.diff(lightness) > -2).all()  # the ramp rises with the value
    page.find("#local").click()  # the scale of this layer: both ends of the ramp are there
    overlay = page.overlay()
    for patch, end in zip((order[0], order[-1]), VIRIDIS_ENDS, strict=True):
        assert np.abs(colour(int(patch)).astype(int) - end).max() <= 2
    bar = [value(text) for text in page.texts(".colour-bar .numbers span")]
    of_layer = [values[2, order[0]], values[2, order[-1]]]
    assert [bar[0], bar[-1]] == pytest.approx(of_layer, rel=0.5 if name == "probability" else 6e-3)


def test_keys_menus_and_address(page: Page) -> None:
    opened(page, "#word=boat&lens=latent&layer=4&patch=0-1-1")
    page.press("\ue014", ".")  # right, next layer
    assert page.js("return location.hash") == "#word=boat&lens=latent&layer=31&patch=0-1-2&map=score&lock=1"
    assert page.texts("#measure option") == ["score", "rank"]
    page.press("m", "l")
    assert "lens=logit&layer=31&patch=0-1-2&map=rank" in page.js("return location.hash")
    assert page.texts("#measure option") == ["score", "probability", "rank"]
    page.choose("#lens", "0")
    page.choose("#word", "2")  # LatentLens does not have it
    assert "word=hot+dog&lens=logit" in page.js("return location.hash")
    assert page.texts("#lens option") == ["LogitLens"]
    assert numbers(page)[0][1:] == ["not there", "–", "–", "–", "–"]
    page.point(0.95, 0.95, click=True)
    page.point(0.1, 0.1)
    assert page.text("#place") == "Row 3, column 5 at layer 31 locked"
    page.press("\ue00c")
    page.point(0.1, 0.1)
    assert page.text("#place") == "Row 0, column 0 at layer 31"
    page.assert_quiet()


def test_words_stay_words_and_small_screens_do_not_scroll_sideways(page: Page) -> None:
    opened(page, "#layer=4&map=nothing&patch=9-9-9&lens=%3Cb%3E")  # what is not there is not followed
    page.press("w")
    assert (
        page.js("return document.querySelectorAll('b, i, img:not(#photo), script[src], link[href^=http]').length") == 0
    )
    assert WORDS[1] in page.text("#legend")
    assert page.text("h1") == reading().name
    assert page.text(".about").startswith("made/<b>model</b> · 24 patches · caption: ")
    page.assert_quiet()
    page.browser.set_window_size(420, 800)
    try:
        assert page.js("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    finally:
        page.browser.set_window_size(1400, 1000)


def test_the_page_needs_no_network_and_has_nothing_of_the_words_in_its_markup() -> None:
    html = word_page(reading(), WORDS, lenses(), "made/<b>model</b>")
    assert re.findall(r"(?:src|href)=\"(?!data:)", html) == []
    assert "alert(1)</script>" not in html
    assert "<b>model" not in html


def test_the_attention_of_an_answer(browser: Any, tmp_path: Path) -> None:
    weights = np.random.default_rng(3).uniform(0, 0.1, (2, len(LAYERS), 24)).astype("f4")
    maps = [WordReading(kind, ("a", "boat"), 0, weights, np.zeros(weights.shape, np.int64)) for kind in ("attention",)]
    html = word_page(reading(), ("1. a", "2. boat"), maps, "made", "Weight of attention")
    (tmp_path / "attention.html").write_text(html, encoding="utf-8")
    page = opened(Page(browser, (tmp_path / "attention.html").as_uri()))
    assert page.texts("label[for=word]") == ["Token of the answer"]
    assert page.texts("#legend .hint")[0].startswith(
        "Attention: “1. a”. Weight of attention (mean over the heads of the block)."
    )
    (line,) = numbers(page)
    assert line[0] == "Attention"
    assert float(line[1]) in [pytest.approx(weight, rel=1e-2) for weight in weights[0, 1]]
