"""The page of a text in a real browser: table, candidates, keys, address, and words that try to be HTML."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lenscore.readings.image_reading import LensReading, NextTokenReading, Word
from lenscore.readings.text_reading import TextReading
from lenscore.single_text.tokens_table import tokens_table
from lenscore.viewer.candidate_words import visible as visible_in_viewer
from lenscore.viewer.text_page import text_page

TOKENS = ("<s>", "The", " <b>dog</b>", "</script><script>alert(1)</script>", " \n\r\xa0", " 犬", " barks")
LAYERS, DEPTH, K = (0, 3, 7, 12), 12, 3


def made() -> TextReading:
    rng = np.random.default_rng(0)
    words = [Word(token.strip() or token, token, token_id=number) for number, token in enumerate(TOKENS)]
    shape = (len(LAYERS), len(TOKENS), K)
    which = rng.permuted(np.tile(np.arange(len(words)), (*shape[:2], 1)), axis=2)[..., :K].astype(np.int32)
    scores = -np.sort(-rng.normal(size=shape), axis=2).astype(np.float32)
    log_normalizers = np.log(np.exp(scores).sum(2) * rng.uniform(1.05, 9, shape[:2])).astype(np.float32)
    numbers = NextTokenReading(log_normalizers, *rng.uniform(0, 5, (2, *shape[:2])).astype(np.float32))
    contexts = [
        Word("dog", TOKENS[1], "a <i>small</i> dog & a 😀 cat", 15, 18, token_id=99),  # a token of the same text
        Word("cat", "cat", "😀 cat", 2, 5),
    ]
    latent = LensReading(
        "latent",
        contexts,
        np.tile(np.array([0, 1, -1], np.int32), (*shape[:2], 1)),
        np.tile(np.array([0.9, 0.5, np.nan], np.float32), (*shape[:2], 1)),
        np.full(shape, 8, np.int16),
    )
    return TextReading(
        "a <i>text</i>",
        TOKENS,
        tuple(range(len(TOKENS))),
        5,
        LAYERS,
        DEPTH,
        (latent, LensReading("logit", words, which, scores, None, numbers)),
    )


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Callable[[str], Any]:
    (tmp_path / "text.html").write_text(text_page(made(), "made/<b>model</b>"), encoding="utf-8")

    def open_at(address: str) -> Any:
        browser.get("about:blank")
        browser.get(f"{(tmp_path / 'text.html').as_uri()}{address}")
        return browser

    return open_at


def read(browser: Any, script: str) -> Any:
    return json.loads(browser.execute_script(f"return JSON.stringify({script})"))


CELLS = "[...document.querySelectorAll('#tokens tbody tr')].map(r => [...r.cells].slice(2).map(c => c.textContent))"
SHOWN = "[...document.querySelectorAll('.lens[data-lens=logit] li .word')].map(e => e.textContent)"
SHARES = "[...document.querySelectorAll('.lens[data-lens=logit] li .share')].map(e => e.textContent)"

MARKS = "[...document.querySelectorAll('.sentence')].map(e => [e.textContent, e.querySelector('mark').textContent])"
NEXT = CELLS.replace("c.textContent", "c.classList.contains('next')")
FRAMED = "[...document.querySelectorAll('#tokens td.most')].map(cell => cell.cellIndex - 2)"


def visible(text: str) -> str:
    signs = {" ": "␣", "\n": "⏎", "\r": "␍", "\xa0": "\\u00a0"}
    return text if text.strip() else "".join(signs[blank] for blank in text)


def test_table_and_candidates_are_those_of_the_reading(page: Callable[[str], Any]) -> None:
    browser, reading = page("#lens=logit&layer=7&token=2"), made()
    logit = reading.lenses[1]
    cells = read(browser, CELLS)
    for token in range(len(TOKENS)):
        for layer in range(len(LAYERS)):
            text = visible(logit.words[logit.which[layer, token, 0]].text)
            assert cells[token][layer] == (text if len(text) <= 18 else text[:17] + "…")
    assert read(browser, "[...document.querySelectorAll('#tokens thead th')].map(e => e.textContent)") == [
        *("#", "token", "0", "3", "7", "12")
    ]
    assert read(browser, "document.querySelector('.about').textContent").endswith(
        "layer 12: the output of the last block"
    )
    place = LAYERS.index(7)
    assert read(browser, SHOWN) == [visible(logit.words[one].text) for one in logit.which[place, 2]]
    assert logit.probabilities is not None
    for said, share in zip(read(browser, SHARES), logit.probabilities[place, 2], strict=True):
        assert abs(float(said.removesuffix(" %").removeprefix("< ")) - 100 * share) < 0.6
    following = np.append(np.array(reading.token_ids[1:]), -2)
    assert np.array_equal(read(browser, NEXT), (logit.which[..., 0] == following).T)
    assert read(browser, MARKS) == [["a <i>small</i> dog & a 😀 cat", "dog"], ["😀 cat", "cat"]]
    assert read(browser, "document.querySelectorAll('tr.answer').length") == 2
    assert browser.get_log("browser") == []


def test_keys_clicks_and_address(page: Callable[[str], Any]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser, reading = page("#lens=logit&layer=3&token=1"), made()
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert read(browser, "location.hash") == "#lens=logit&layer=7&token=2&colours=probability"
    shares = reading.lenses[1].probabilities
    assert shares is not None
    body.send_keys("c")  # the layer of the largest probability
    assert f"layer={LAYERS[int(shares[:, 2, 0].argmax())]}&" in read(browser, "location.hash")
    browser.find_element(By.CSS_SELECTOR, "#tokens tbody tr:nth-child(6) td:nth-child(6)").click()
    assert read(browser, "location.hash").startswith("#lens=logit&layer=12&token=5")
    browser.find_element(By.CSS_SELECTOR, "#text button:nth-child(4)").click()
    assert "token=3&" in read(browser, "location.hash")
    browser.find_element(By.CSS_SELECTOR, "#colours option[value=entropy]").click()
    entropies = reading.lenses[1].next_token.entropies  # type: ignore[union-attr]
    assert read(browser, FRAMED) == entropies.argmin(axis=0).tolist()
    body.send_keys("l")
    assert read(browser, "location.hash").startswith("#lens=latent&")
    assert read(browser, CELLS)[2] == ["dog"] * len(LAYERS)
    assert not np.any(read(browser, NEXT))


def test_words_stay_words_and_small_screens_do_not_scroll_sideways(page: Callable[[str], Any]) -> None:
    browser = page("")
    assert read(
        browser, "[document.querySelectorAll('i, b, script[src], link[rel=stylesheet]').length, document.title]"
    ) == [
        0,
        "a <i>text</i> · made/<b>model</b>",
    ]
    texts = read(browser, "[...document.querySelectorAll('#text button')].map(e => e.textContent)")
    assert texts == [visible(token) for token in TOKENS]
    browser.set_window_size(420, 800)
    try:
        assert read(browser, "document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    finally:
        browser.set_window_size(1400, 1000)


def test_tokens_without_a_shape_are_seen_in_text_table_and_candidates(browser: Any, tmp_path: Path) -> None:
    reading = made()
    first, *rest = reading.lenses[1].words
    logit = dataclasses.replace(reading.lenses[1], words=[dataclasses.replace(first, text="\u2060\ufe0f"), *rest])
    shown = dataclasses.replace(reading, tokens=("\u200b", "\ufeff", *TOKENS[2:]), lenses=(logit,))
    (tmp_path / "text.html").write_text(text_page(shown, "made"), encoding="utf-8")
    browser.get((tmp_path / "text.html").as_uri())
    texts = read(browser, "[...document.querySelectorAll('#text button')].map(e => e.textContent)")
    assert texts[:2] == ["\\u200b", "\\ufeff"]
    assert "\\u2060\\ufe0f" in {word for line in read(browser, CELLS) for word in line}
    assert visible_in_viewer("\u200b") == "\\u200b"


def test_bold_in_the_terminal_is_the_same_token_not_the_same_text() -> None:
    reading = made()
    for lens in reading.lenses:
        table = tokens_table(reading, lens, 160)
        bold = np.array([[cell.style == "bold" for cell in column.cells] for column in table.columns[2:]])
        ids = np.array([[lens.words[place].token_id for place in layer] for layer in lens.which[..., 0]])
        assert np.array_equal(bold, ids == np.append(np.array(reading.token_ids[1:]), -2))
        plain = tokens_table(reading, lens, 160, styled=False)  # in a file
        marked = [
            [cell.plain.endswith("*") and not cell.style for cell in column.cells] for column in plain.columns[2:]
        ]
        assert np.array_equal(marked, bold)
        assert str(plain.caption).startswith("*: the next token of the text")
        assert "dim" not in str(plain.caption)
    assert not bold.all()
