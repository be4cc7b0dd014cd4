"""The search for a word, in a real browser, beside a recomputation from the Parquet files."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest

from lenscore.readings.words import whole_word
from lenscore.viewer.word_index import WordIndex
from tests.viewer_pages import LENSES, Site

try:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys
except ImportError:
    pass  # then the browser fixture skips


@pytest.fixture(scope="module")
def said(judged) -> pd.DataFrame:
    """What the results say, recomputed from the Parquet files: a line for each word of each patch, layer and lens."""
    results = judged[0]
    store = results.store()
    rows = store.row_table().to_pandas().merge(store.sentences().to_pandas(), on="sentence_id").sort_values("row")
    places = zip(rows["text"], rows["char_start"], rows["char_end"], strict=True)
    of_row = [whole_word(text, start, end) for text, start, end in places]
    tokens = [token.strip() for token in results.token_words()]
    parts = sorted((results.path / "results").glob("*.parquet"))
    lines = pd.concat(map(pd.read_parquet, parts)).explode("ids").reset_index(drop=True)
    words = [of_row[i] if lens == "latent" else tokens[i] for lens, i in zip(lines["lens"], lines["ids"], strict=True)]
    lines["word"] = [word.strip().lower() for word in words]
    return lines[["image_id", "view", "row", "col", "layer", "lens", "word"]].drop_duplicates()


def test_the_most_frequent_words_are_suggested(browser, address, said) -> None:
    patches = said.drop_duplicates(["image_id", "view", "row", "col", "word"]).groupby("word").size()
    frequent = sorted((word for word in patches.index if word), key=lambda word: (-patches[word], word))
    letters = [word for word in frequent if re.search(r"[^\W\d_]{3}", word)]
    site = Site(browser, address)
    assert site.find("#word")[0].get_attribute("placeholder") == f"a word, e.g. {letters[0]}"
    site.find("#word")[0].click()
    site.wait(lambda: site.texts("#suggestions bdi") == [" ".join(word.split()) for word in letters[:12]])
    browser.execute_script("location.hash = 'word=qqqqq'")
    site.wait(lambda: "no patch" in "".join(site.texts("#found .answer")))
    assert site.texts("#found .answer a") == [" ".join(word.split()) for word in letters[:6]]
    site.assert_quiet()


def test_the_search_finds_what_the_results_say(browser, address, said) -> None:
    site = Site(browser, address)
    total = said.groupby("word").size()
    for word in ("star", "shiny", "ci", *[text for text in total.index if "<img" in text or "\u202e" in text]):
        mine = said[said["word"] == word]
        site.search(word)
        found = site.counts()
        expected = mine.groupby(["lens", "layer"]).size()
        assert {key: count for key, count in found.items() if count} == expected.to_dict()
        patches = mine[["image_id", "view", "row", "col"]].drop_duplicates().groupby("image_id").size()
        assert {image: count for image, *_, count in site.links()} == patches.to_dict()
        assert f"{patches.sum():,} patch" in site.texts("#found .answer")[0]
        assert f"{len(patches)} image" in site.texts("#found .answer")[0]
        there = {tuple(key) for key in mine[["image_id", "layer", "view", "row", "col", "lens"]].to_numpy().tolist()}
        for image, layer, place, lens, _ in site.links():
            assert (image, layer, *map(int, place.split("-")), lens) in there
    site.search("star")
    (lens, layer), count = max(site.counts().items(), key=lambda item: item[1])
    site.find(f"#found .counts tr.{lens} button[aria-label$='layer {layer}']")[0].click()
    site.wait(lambda: "where" in "".join(site.texts("#found .about")))
    mine = said[(said["word"] == "star") & (said["lens"] == lens) & (said["layer"] == layer)]
    assert {image: found for image, *_, found in site.links()} == mine.groupby("image_id").size().to_dict()
    assert {(at, who) for _, at, _, who, _ in site.links()} == {(layer, lens)}
    assert sum(found for *_, found in site.links()) == count
    image, layer, place, lens, _ = site.links()[0]
    site.find("#found .gallery a")[0].click()
    site.wait(lambda: site.find("#lenses .word"))
    assert unquote(browser.current_url).split("#")[1].startswith(f"{image}/{layer}/{place}/{lens}")
    words = [word.lower() for word in site.texts(f".lens.{lens} .word, [data-lens={lens}] .word")]
    assert "star" in words
    browser.back()
    site.wait(lambda: site.links())
    assert "layer" in browser.current_url
    site.assert_quiet()


def test_suggestions_come_while_typing(browser, address, said) -> None:
    words = said.drop_duplicates(["image_id", "view", "row", "col", "word"]).groupby("word").size()
    frequent = sorted(words.index, key=lambda word: (-words[word], word))
    site = Site(browser, address)
    site.type("#word", "S")
    site.wait(lambda: site.find("#suggestions li"))
    begin = [word for word in frequent if word.startswith("s")]
    hold = [word for word in frequent if "s" in word[1:] and word not in begin]
    expected = [*begin, *hold][:12]
    script = "return [...document.querySelectorAll('#suggestions bdi')].map((found) => found.textContent)"
    assert browser.execute_script(script) == expected
    ActionChains(browser, duration=0).send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ENTER).perform()
    site.wait(lambda: site.texts("#found .word") == [expected[1]])
    assert browser.current_url.endswith(f"#word={expected[1]}")
    assert site.visible("#suggestions li") == []
    site.type("#word", "  STAR ")
    site.find("form[role=search] button")[0].click()
    site.wait(lambda: site.texts("#found .word") == ["star"])
    site.type("#word", "no such word")
    site.find("#word")[0].send_keys(Keys.ENTER)
    site.wait(lambda: site.texts("#found .word") == ["no such word"])
    assert "of no patch" in site.texts("#found .answer")[0]
    site.assert_quiet()


def test_an_index_of_nothing_can_be_written(tmp_path: Path) -> None:
    index = WordIndex((0,), LENSES)
    index.write(tmp_path / "words")
    assert [path.name for path in (tmp_path / "words").iterdir()] == ["vocabulary.js"]
