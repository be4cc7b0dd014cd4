"""What the image page saves: all words as CSV, the view as PNG, both from file://, and what its data script holds."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lenscore.readings.image_reading import ImageReading
from lenscore.viewer.candidate_words import CandidateFiles, is_empty, visible
from lenscore.viewer.page_data import image_script
from lenscore.viewer.script_bytes import PackedArrays, characters, script_file
from tests.image_pages import Page, write_folder
from tests.image_scripts import parts_of_image, unpacked
from tests.made_readings import EMPTY, HOSTILE, NOUNS, TILES, reading


@pytest.fixture(scope="module")
def readings() -> dict[int, ImageReading]:
    return {
        6: reading("=cmd|' /C calc'!A0 <b>.png", (0, 4), TILES, (900, 600), seed=1, with_truth=True, judged=40),
        7: reading("gone.png", (0, 5), (("global", 4, 6, (0, 0, 1, 1)),), with_picture=False, seed=2),
    }


@pytest.fixture
def page(browser: Any, readings, tmp_path: Path) -> Page:
    address = write_folder(tmp_path, readings).as_uri()
    (tmp_path / "saved").mkdir()
    settings = {"behavior": "allow", "downloadPath": str(tmp_path / "saved")}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", settings)
    return Page(browser, address)


def saved(page: Page, folder: Path, button: str) -> Path:
    """Click and wait for the file, beside which Chromium keeps another one until all is in it."""
    page.find(button).click()

    def files() -> list[Path]:
        return list((folder / "saved").glob("*"))

    page.wait(lambda: [path.suffix in (".csv", ".png") and path.stat().st_size > 0 for path in files()] == [True])
    (file,) = files()
    return file


def cell(text: str) -> str:
    """A text as the CSV holds it: no formula, no NUL, no half of a character."""
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\0", "␀")
    return f"'{text}" if text[:1] in "=+-@\t\r\n" and text else text


def test_csv_holds_every_word_of_the_image(page: Page, readings, tmp_path: Path) -> None:
    of = readings[6]
    page.open("#6/4/2-1-1/logit")
    file = saved(page, tmp_path, "#csv")
    assert file.name == "000006-cmd-C-calc-A0-b.csv"
    raw = file.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbfimage_id,image,")
    raw.decode("utf-8")
    found = pd.read_csv(file, keep_default_na=False, dtype={"word": str, "token": str})
    lines = []
    for patch, (view, row, column) in enumerate(of.places.tolist()):
        for place, layer in enumerate(of.layers):
            for lens in of.lenses:
                said = [v for v in of.verdicts if (v.patch, v.layer, v.lens) == (patch, layer, lens.lens)]
                for rank, i in enumerate(lens.which[place, patch].tolist()):
                    if i < 0:
                        continue
                    word = lens.words[i]
                    context = "" if lens.contextual_layers is None else lens.contextual_layers[place, patch, rank]
                    share = "" if lens.probabilities is None else lens.probabilities[place, patch, rank]
                    entropy = "" if lens.next_token is None else lens.next_token.entropies[place, patch]
                    numbers = [float(lens.scores[place, patch, rank]), share, entropy, str(context), len(said)]
                    place_and_word = [view, row, column, layer, lens.lens, rank + 1, cell(visible(word.text))]
                    lines.append([*place_and_word, *numbers])
    columns = ["view", "row", "column", "layer", "lens", "rank", "word", "score", "probability", "entropy"]
    columns += ["contextual_layer", "said"]
    wanted = pd.DataFrame(lines, columns=columns)
    assert len(found) == len(wanted)
    for name in columns[:7]:
        assert found[name].astype(str).tolist() == wanted[name].astype(str).tolist(), name
    assert found["contextual_layer"].tolist() == wanted["contextual_layer"].tolist()
    assert np.abs(found["score"] - wanted["score"]).max() < 35 / 65534
    logit = found["lens"] == "logit"
    for name in ("probability", "entropy"):
        assert set(found[name][~logit]) == {""}
        assert np.abs(found[name][logit].astype(float) - wanted[name][logit].astype(float)).max() < 1e-3
    assert (found["verdicts"].str.count("gpt-<i>: |qwen & co: ") == wanted["said"]).all()
    assert set(found["image"]) == {cell(of.name)}
    assert not found.map(lambda value: isinstance(value, str) and value[:1] in tuple("=+-@\t\r\n")).any(axis=None)
    boxes = found.drop_duplicates(["view", "row", "column"])[["left", "top", "right", "bottom"]]
    np.testing.assert_allclose(boxes, np.delete(of.boxes, 3, axis=0), atol=1e-6)  # of patch 3 no lens says a word
    latent, words = found[found["lens"] == "latent"], {visible(word.text): word for word in of.lenses[0].words}
    for noun in NOUNS:
        line = latent[latent["word"] == noun].iloc[0]
        assert line["sentence_before"] + line["sentence_token"] + line["sentence_after"] == words[noun].sentence
        assert line["sentence_token"] == noun[:4]
    page.assert_quiet()


def test_png_holds_the_view(page: Page, readings, tmp_path: Path) -> None:
    of = readings[6]
    page.open("#6/4/2-1-1/latent/colours=context/lock")
    page.wait(lambda: page.js("return document.querySelector('#photo').complete"))
    file = saved(page, tmp_path, "#png")
    assert file.name == "000006-cmd-C-calc-A0-b-layer-4-patch-2-1-1.png"
    with Image.open(file) as image:
        pixels = np.array(image.convert("RGB")).astype(int)
    assert pixels.shape[1] == 1920
    yellow = (np.abs(pixels - [255, 212, 0]).max(axis=2) < 3)[:, :868]  # the frame around the patch, and small dots
    (left, *_, right), (top, *_, bottom) = (np.flatnonzero(yellow.sum(axis) > 25) for axis in (0, 1))
    patch = int(np.flatnonzero((of.places == [2, 1, 1]).all(axis=1))[0])
    box = of.boxes[patch] * 820 + 48
    assert [left, right] == pytest.approx([box[0], box[2]], abs=4)
    assert bottom - top == pytest.approx(820 * 600 / 900 * (of.boxes[patch, 3] - of.boxes[patch, 1]), abs=8)
    inside = pixels[top + 8 : bottom - 8, left + 8 : right - 8].reshape(-1, 3)
    assert (np.ptp(inside, axis=1) > 20).all()  # a colour over a grey picture, not the picture's own blue
    words = pixels[100:, 912:]
    assert 0.01 < (words.max(axis=2) < 110).mean() < 0.3  # dark letters on white
    assert (np.abs(words - [255, 224, 138]).max(axis=2) < 3).sum() > 500  # the marked tokens
    page.assert_quiet()


def test_a_reading_without_its_picture_can_be_saved_too(page: Page, tmp_path: Path) -> None:
    page.open("#7/5/0-1-1/latent/inside/mask/colours=verdict")
    with Image.open(saved(page, tmp_path, "#png")) as image:
        assert image.width == 1920
    page.assert_quiet()


def test_the_data_script_is_one_call_that_no_text_can_end(readings) -> None:
    scripts = []
    for _ in range(2):
        candidates = CandidateFiles()
        scripts.append((image_script(6, readings[6], candidates)(), candidates.script()()))
    assert scripts[0] == scripts[1]
    script, words = scripts[0]
    assert script_file(script).decode("utf-16") == script
    assert "<" not in script + words
    packed_characters = r'"[\u0100-\ud7ff\ue000-\ufefe]*"'
    assert re.sub(packed_characters, "", script).isascii()
    file, data, numbers, picture = parts_of_image(script)
    assert picture == readings[6].picture.data
    number, packed_words = json.loads("[" + words.removeprefix("lenscore.candidates(").removesuffix(");\n") + "]")
    assert number == file == 0
    shared = json.loads(zlib.decompress(unpacked(packed_words)))
    assert ["dog", " dog"] in shared["words"]
    assert ["😀 number 0: a photo of ", "dog"[:4], " on the left"] in [word[2:] for word in shared["words"]]
    assert (data["id"], data["name"]) == (6, readings[6].name)
    width, start, count = data["lenses"][1]["words"]
    assert width == 4
    planes = np.frombuffer(numbers, np.uint8, 4 * count, start).reshape(4, count)
    places = np.ascontiguousarray(planes.T).view("<u4").ravel().cumsum(dtype=np.uint32)  # of differences
    assert {tuple(shared["words"][place]) for place in places} >= {("dog", " dog"), ("Dog", " Dog")}


def test_numbers_are_packed_as_narrow_as_they_fit() -> None:
    for largest, width in ((254, 1), (255, 2), (65534, 2), (65535, 4)):
        assert PackedArrays().add(np.array([[0, largest], [-1, 3]])) == (width, 0, 4)
    arrays = PackedArrays()
    assert arrays.add(np.array([-1, 7])) == (1, 0, 2)
    assert arrays.add(np.zeros((0, 3), np.int32)) == (1, 2, 0)
    assert arrays.add(np.array([-1, 258])) == (2, 2, 2)
    assert arrays.add(np.array([3, 300, 200])) == (2, 7, 3)
    assert arrays.add(np.array([65536, 2])) == (4, 12, 2)
    wanted = [b"\xff\x07", b"\0\xff\x01\xff\x02", b"\xff\x03\xff\xc8\x2d", b"\0\x02\0\0\x01\0\0\0"]
    assert zlib.decompress(unpacked(json.loads(arrays.packed()))) == b"".join(wanted)


def test_bytes_as_characters() -> None:
    anything = np.random.default_rng(0).bytes(3000)
    for data in (*(anything[:length] for length in range(32)), anything, bytes(3000), b"\xff" * 3000):
        text = characters(data)
        assert unpacked(json.loads(text)) == data
    assert len(characters(anything)) < 3000 / 2 * 1.02


def test_empty_words() -> None:
    assert all(is_empty(text) for text in (*EMPTY, " ▁", "Ġ", "</>", "$", "\u200b", "''", "\u2800", "\u3164"))
    assert not any(is_empty(text) for text in (*NOUNS, *HOSTILE[:10], "7", "é", "的", "😀", "+1", "a."))
