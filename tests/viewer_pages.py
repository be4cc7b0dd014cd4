"""The pages around the image page, as a person uses them in a browser; and readings that nobody analysed."""

from __future__ import annotations

import contextlib
import re
from typing import Any
from urllib.parse import unquote

import numpy as np

from tests import made_readings

with contextlib.suppress(ImportError):  # without it the browser fixture skips
    from selenium.webdriver.support.ui import WebDriverWait

LENSES = ("latent", "logit", "embedding")


class Site:
    """A page of the viewer, as a person uses it."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.get_log("browser")
        browser.get("about:blank")  # a change behind the # alone would not load the page anew
        browser.get(address)

    def find(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent)"
        return [" ".join(text.split()) for text in self.browser.execute_script(script, selector)]

    def visible(self, selector: str) -> list[Any]:
        return [found for found in self.find(selector) if found.is_displayed()]

    def wait(self, condition: Any) -> Any:
        return WebDriverWait(self.browser, 20, poll_frequency=0.02).until(lambda _: condition())

    def type(self, selector: str, text: str) -> None:
        field = self.find(selector)[0]
        field.clear()
        field.send_keys(text)

    def search(self, word: str) -> None:
        """Ask for a word by the address, and wait for the answer."""
        self.browser.execute_script("location.hash = new URLSearchParams({ word: arguments[0] })", word)
        said = "return document.querySelector('#found .word')?.textContent"
        self.wait(lambda: self.browser.execute_script(said) == word)

    def counts(self) -> dict[tuple[str, int], int]:
        """The table of the search: patches by lens and layer."""
        script = """return [...document.querySelectorAll("#found .counts tbody tr")].map((row) =>
            [row.className, [...row.querySelectorAll("td")].map((cell) => cell.textContent)])"""
        layers = [int(text) for text in self.texts("#found .counts thead th")[1:]]
        return {
            (lens, layer): 0 if text == "·" else int(text.replace(",", ""))
            for lens, cells in self.browser.execute_script(script)
            for layer, text in zip(layers, cells, strict=True)
        }

    def links(self) -> list[tuple[int, int, str, str, int]]:
        """The images of the search: id, layer, view-row-column, lens, number of patches."""
        script = """return [...document.querySelectorAll("#found .gallery a")].map((link) =>
            [link.hash, link.querySelector("strong").textContent])"""
        found = []
        for hash_, count in self.browser.execute_script(script):
            image, layer, place, lens, *shown = map(unquote, hash_[1:].split("/"))
            asked = self.texts("#found .answer .word")[0]
            assert [" ".join(part.split()) for part in shown] == ["colours=word", f"word={' '.join(asked.split())}"]
            found.append((int(image), int(layer), place, lens, int(count.split()[0].replace(",", ""))))
        return found

    def assert_quiet(self) -> None:
        """No error in the console, no failed request, no alert that a hostile word raised, nothing from a network."""
        assert self.browser.get_log("browser") == []
        sources = self.browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
        assert all(re.match(r"file:|data:|http://127\.0\.0\.1:", source) for source in sources)


class MadeReadings:
    """Readings that nobody analysed: hostile names, captions and words, and a vocabulary of 100,000 words."""

    layers, lenses, top_k = (0, 8), LENSES, 5
    has_texts = False

    def __init__(self) -> None:
        words = [f"word{number}" for number in range(100_000)]
        self._readings = {0: made_readings.reading("\"'><script>alert(4)</script>.png", self.layers, seed=1)}
        base = made_readings.reading(
            "\u202egnp.\ud800#?%20.png", self.layers, views=(("global", 100, 100, (0, 0, 1, 1)),)
        )
        latent = base.lenses[0]
        which = np.arange(100_000, dtype=np.int32).reshape(2, 10_000, 5)
        fields = {"words": tuple(made_readings.Word(word) for word in words), "which": which}
        fields |= {"scores": np.ones_like(which, np.float32), "contextual_layers": np.ones_like(which, np.int16)}
        lens = type(latent)(lens="latent", **fields)
        self._readings[1] = type(base)(**{**base.__dict__, "lenses": (lens,), "verdicts": (), "truth": None})
        self.names = {image_id: reading.name for image_id, reading in self._readings.items()} | {2: "<b>broken"}
        self.errors = {2: "no <image>\0"}
        self.image_ids = [0, 1]

    def readings(self, image_ids):
        return ((image_id, self._readings[image_id]) for image_id in image_ids)
