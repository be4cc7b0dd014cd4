"""Colours, painted-out patches and the table of the image page, against values computed here from the reading."""

from __future__ import annotations

import contextlib
import re
import shlex
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from launch.find import FindCommand
from launch.flags import parse
from lenscore.readings.image_reading import ImageReading, LensReading, PatchMap
from lenscore.viewer.candidate_words import is_empty, visible
from tests.image_pages import Page, write_folder
from tests.made_readings import as_png, reading

with contextlib.suppress(ImportError):  # then the browser fixture skips
    from selenium.webdriver.common.keys import Keys

GRID = 12
LAYERS = (0, 2, 8, 16)


@pytest.fixture(scope="module")
def readings() -> dict[int, ImageReading]:
    square = (("global", GRID, GRID, (0, 0, 1, 1)),)
    return {
        0: reading("square.png", LAYERS, square, (480, 480), judged=40, with_truth=True, seed=5),
        1: reading("big.png", tuple(range(28)), (("global", 48, 60, (0, 0, 1, 1)),), (1200, 960), seed=3),
    }


@pytest.fixture(scope="module")
def folder(readings, tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("viewer"), readings)


@pytest.fixture
def page(browser: Any, folder: Path) -> Page:
    return Page(browser, folder.as_uri())


def colours(page: Page) -> np.ndarray:
    """Red, green and blue over the lower left part of every patch, [patches, 3]: no letter, dot or line is there."""
    overlay = page.overlay()
    row, column = np.divmod(np.arange(GRID * GRID), GRID)
    size = overlay.shape[0] / GRID
    return overlay[((row + 0.85) * size).astype(int), ((column + 0.18) * size).astype(int), :3].astype(int)


def ramp(values: np.ndarray) -> np.ndarray:
    """Matplotlib's viridis, red, green and blue 0..255."""
    return 255 * mpl.colormaps["viridis"](values.clip(0, 1))[:, :3]


def folded(lens: LensReading) -> np.ndarray:
    """A number for each word, the same for words that differ by case or blanks alone."""
    return np.unique([visible(word.text).strip().lower() for word in lens.words], return_inverse=True)[1]


def gaps(lens: LensReading) -> np.ndarray:
    """Confidence [layers, patches]."""
    if lens.probabilities is not None:
        return lens.probabilities[:, :, 0]
    names, result = folded(lens), np.full(lens.which.shape[:2], np.nan)
    for at in np.ndindex(result.shape):
        known = lens.which[at] >= 0
        words, scores = names[lens.which[at][known]], lens.scores[at][known]
        if len(words) > 1:
            others = scores[words != words[0]]
            result[at] = scores[0] - (others[0] if len(others) else scores[-1])
    return result


@pytest.mark.parametrize("measure", ["score", "confidence"])
def test_ramps_show_scores_and_confidence(page: Page, readings, measure: str) -> None:
    of = readings[0]
    lens = of.lenses[1]
    values = lens.scores[:, :, 0] if measure == "score" else gaps(lens)
    known = np.sort(values[~np.isnan(values)])
    low, high = (known[round(share * (len(known) - 1))] for share in (0.01, 0.99))
    page.open(f"#0/8/0-0-0/logit/colours={measure}/nogrid")
    page.js("arguments[0].value = 100; arguments[0].dispatchEvent(new Event('input'))", page.find("#strength"))
    for place, layer in ((2, 8), (0, 0)):
        page.js("change({ layer: arguments[0] })", place)
        there = ~np.isnan(values[place])
        seen = colours(page)[there]
        assert np.abs(seen - ramp((values[place][there] - low) / (high - low))).max() < 8, layer
    page.js("document.querySelector('#local').click()")
    page.js("change({ layer: 1 })")
    mine = np.sort(values[1][~np.isnan(values[1])])
    own = [mine[round(share * (len(mine) - 1))] for share in (0.01, 0.99)]
    there = ~np.isnan(values[1])
    assert np.abs(colours(page)[there] - ramp((values[1][there] - own[0]) / (own[1] - own[0]))).max() < 8
    assert page.hash().endswith(f"colours={measure}/nogrid/local")
    page.js("document.querySelector('#local').click()")
    unit = 0.01 if measure == "confidence" else 1  # a probability, in percent
    ends = [unit * float(text.strip("≤≥< %").replace("−", "-")) for text in page.texts("#legend .scale span:not(.bar)")]
    assert ends == pytest.approx([low, high], abs=0.006)
    page.assert_quiet()


def test_a_key_goes_to_the_layer_of_the_largest_probability(page: Page, readings) -> None:
    of = readings[0]
    lens = of.lenses[1]
    page.open("#0/8/0-1-2/logit")
    page.press("b")
    patch = GRID + 2
    best = int(lens.probabilities[:, patch, 0].argmax())
    assert page.hash().startswith(f"#0/{LAYERS[best]}/0-1-2/logit")
    numbers = lens.next_token
    assert page.texts("[data-lens=logit] .unit")[1] == (
        f"entropy {numbers.entropies[best, patch]:.2f}, "
        f"KL from the final distribution {numbers.divergences[best, patch]:.2f} (nats)"
    )
    said = [float(text.strip("< %")) for text in page.texts("[data-lens=logit] .probability")]
    assert said == pytest.approx(100 * lens.probabilities[best, patch], abs=0.6)
    assert page.texts("[data-lens=embedding] .probability") == []
    page.assert_quiet()


def test_explained_variance_is_said_and_coloured(page: Page, readings) -> None:
    explained = readings[0].lenses[2].explained
    page.open("#0/8/0-1-2/embedding/colours=explained/nogrid")
    page.js("arguments[0].value = 100; arguments[0].dispatchEvent(new Event('input'))", page.find("#strength"))
    (said,) = page.texts("[data-lens=embedding] .unit")[1:]
    best, random = (float(text.strip("< %")) for text in re.findall(r"[\d.]+ %", said))
    place = LAYERS.index(8), GRID + 2
    assert best == pytest.approx(100 * explained.explained_5[place], abs=0.6)
    assert random == pytest.approx(100 * explained.random_5[place], abs=0.6)
    known = np.sort(explained.explained_5.ravel())
    low, high = (known[round(share * (len(known) - 1))] for share in (0.01, 0.99))
    assert np.abs(colours(page) - ramp((explained.explained_5[place[0]] - low) / (high - low))).max() < 8
    assert page.texts("[data-lens=latent] .unit")[1:] == []
    page.assert_quiet()


def test_maps_of_a_run_colour_what_they_know(browser: Any, tmp_path: Path) -> None:
    """A map of one lens, of the same name for two lenses, and one of none; most patches have no number."""
    rng, made = np.random.default_rng(4), reading("square.png", LAYERS, (("global", 3, 3, (0, 0, 1, 1)),), (90, 90))
    values = rng.uniform(0, 1, (3, len(LAYERS), 9)).astype(np.float32)
    values[:, :, 5:] = np.nan
    text = "Moved by <b>so much</b>."
    maps = tuple(
        PatchMap(name, f"effect of {name}", text, lens, numbers)
        for name, lens, numbers in zip(("a", "a", "b"), ("latent", "logit", ""), values, strict=True)
    )
    page = Page(browser, write_folder(tmp_path, {0: replace(made, maps=maps)}).as_uri())
    for lens, name, which in (("latent", "a", 0), ("logit", "a", 1), ("embedding", "b", 2), ("latent", "b", 2)):
        page.open(f"#0/8/0-0-0/{lens}/colours=map-{name}/nogrid")
        page.js("arguments[0].value = 100; arguments[0].dispatchEvent(new Event('input'))", page.find("#strength"))
        known = np.sort(values[which][~np.isnan(values[which])])
        low, high = (known[round(share * (len(known) - 1))] for share in (0.01, 0.99))
        overlay, row, column = page.overlay(), *np.divmod(np.arange(9), 3)
        size = overlay.shape[0] / 3
        seen = overlay[((row + 0.85) * size).astype(int), ((column + 0.18) * size).astype(int)].astype(int)
        expected = ramp((values[which][LAYERS.index(8)] - low) / (high - low))
        assert np.abs(seen[:5, :3] - expected[:5]).max() < 8
        assert not seen[5:, 3].any()
        assert text in page.texts("#legend .hint")[-2]
        assert page.texts("#legend .hint")[-1] == "no colour: not tried"
    page.open("#0/8/0-0-0/embedding/colours=map-a")
    assert "EmbeddingLens has no colours for “effect of a” here" in page.texts("#notice")[0]
    page.assert_quiet()


def test_layers_are_coloured_and_counted(page: Page, readings) -> None:
    of = readings[0]
    latent = of.lenses[0]
    contexts = latent.contextual_layers
    page.open("#0/2/0-0-0/latent/colours=context/nogrid")
    page.js("arguments[0].value = 100; arguments[0].dispatchEvent(new Event('input'))", page.find("#strength"))
    every = np.unique(contexts[contexts >= 0])
    best = contexts[1, :, 0]
    assert page.texts("#legend .kind") == [f"layer {layer}" for layer in every]
    assert page.texts("#legend .number") == [str((best == layer).sum()) for layer in every]
    seen, there = colours(page), best >= 0
    wanted = ramp(np.searchsorted(every, best) / (len(every) - 1))
    assert np.abs(seen - wanted)[there].max() < 8
    assert not seen[3].any()  # of this patch the lens says nothing
    page.press("c", "c", "c", "c", "c")
    assert page.hash().endswith("colours=best-layer/nogrid")
    sure = gaps(latent)
    known = ~np.isnan(sure).all(axis=0)
    most = np.nanargmax(sure[:, known], axis=0)
    assert page.texts("#legend .number") == [str(count) for count in np.bincount(most, minlength=len(LAYERS))]
    assert np.abs(colours(page)[known] - ramp(most / (len(LAYERS) - 1))).max() < 8
    page.assert_quiet()


def test_verdicts_are_coloured_by_kind(page: Page, readings) -> None:
    of = readings[0]
    page.open("#0/8/0-0-0/embedding/colours=verdict")
    mine = pd.DataFrame([vars(v) for v in of.verdicts if v.layer == 8 and v.lens == "embedding"])

    def kind(said: pd.DataFrame) -> str:
        answers = set(said["outcome"]) & {"yes", "no"}
        if not answers:
            return "no answer"
        kinds = {name for named in said["kinds"] for name in named}
        return (
            "judges differ"
            if len(answers) == 2
            else answers.pop()
            if not kinds
            else min(kinds, key=["concrete", "abstract", "global"].index)
        )

    counts = mine.groupby("patch")[["outcome", "kinds"]].apply(kind).value_counts().to_dict()
    assert dict(zip(page.texts("#legend .kind"), map(int, page.texts("#legend .number")), strict=True)) == counts
    assert page.texts("#legend p")[-1] == f"not judged: {GRID * GRID - mine['patch'].nunique()}"
    page.assert_quiet()


def test_the_same_word_is_shown_wherever_it_is(page: Page, readings) -> None:
    lens = readings[0].lenses[2]
    page.open("#0/8/0-5-5/embedding/colours=same")
    names = folded(lens)
    for patch in (5 * GRID + 5, 5 * GRID + 6):
        word = names[lens.which[2, patch, 0]]
        ranks = (names[lens.which[2]] == word) & (lens.which[2] >= 0)
        first = np.where(ranks.any(axis=1), ranks.argmax(axis=1), -1)
        assert page.texts("#legend .number") == [str((first == rank).sum()) for rank in range(5)]
        assert page.texts("#legend p")[-1] == f"not among the words: {(first < 0).sum()}"
        page.press(Keys.ARROW_RIGHT)
    page.assert_quiet()


def test_right_words_are_marked_where_the_truth_is_known(page: Page, readings) -> None:
    of = readings[0]
    page.open("#0/8/0-0-0/logit/colours=truth")
    lens, right, none = of.lenses[1], 0, 0
    for patch, thing in enumerate(of.truth.which):
        answers = {word.lower() for words in of.truth.things[thing].aspects.values() for word in words}
        words = {lens.words[i].text.lower() for i in lens.which[2, patch] if i >= 0}
        right += bool(words & answers)
        none += bool(answers) and not words & answers
    shown = dict(zip(page.texts("#legend .kind"), map(int, page.texts("#legend .number")), strict=True))
    assert shown.pop("no word is right", 0) == none
    assert sum(shown.values()) == right


def test_mask_paints_out_patches_with_empty_best_words(page: Page, readings) -> None:
    of = readings[0]
    lens = of.lenses[2]

    def says_something(text: str) -> bool:
        return any(unicodedata.category(c)[0] in "LNM" or c in "👩👧" for c in text)

    empty = np.array([i < 0 or not says_something(lens.words[i].text) for i in lens.which[2, :, 0]])
    assert 5 < empty.sum() < 100
    page.open("#0/8/0-0-0/embedding/nogrid")
    assert not colours(page).any()
    page.press("m")
    painted = colours(page).min(axis=1) > 100
    np.testing.assert_array_equal(painted, empty)
    page.press("m")
    assert not colours(page).any()


def test_masked_words_are_no_candidates_for_the_most_confident_layer(page: Page, readings) -> None:
    lens = readings[0].lenses[1]
    empty = np.array(
        [[place < 0 or is_empty(lens.words[place].text) for place in layer] for layer in lens.which[..., 0]]
    )
    shares = np.where(empty, -1, lens.probabilities[:, :, 0])
    masked, free = shares.argmax(axis=0), lens.probabilities[:, :, 0].argmax(axis=0)
    patch = int(np.flatnonzero((masked != free) & ~empty.all(axis=0))[0])
    page.open(f"#0/8/0-{patch // GRID}-{patch % GRID}/logit/colours=best-layer")
    page.press("b")
    assert page.hash().startswith(f"#0/{LAYERS[free[patch]]}/")
    page.press("m", "b")
    assert page.hash().startswith(f"#0/{LAYERS[masked[patch]]}/")
    counts = np.bincount(masked[~empty.all(axis=0)], minlength=len(LAYERS))
    assert page.texts("#legend .number") == [str(count) for count in counts]
    page.assert_quiet()


def test_the_table_shows_best_words_and_goes_where_one_clicks(page: Page, readings) -> None:
    of = readings[1]
    lens = of.lenses[0]
    page.open("#1/8/0-24-30/latent/table")

    def best(patch: int, layer: int) -> str:
        word = lens.which[layer, patch, 0]
        text = visible(lens.words[word].text) if word >= 0 else "–"
        text = text if len(text) <= 40 else f"{text[:40]}…"
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    script = """
        return [...document.querySelectorAll("#table td")].map((cell) =>
          [Number(cell.parentElement.dataset.patch), cell.cellIndex - 1, cell.textContent.toWellFormed()]);
    """
    cells = page.js(script)
    assert 28 * 10 < len(cells) < 28 * 60  # not all 80,640
    assert [24 * 60 + 30, 8] in [where for *where, _ in cells]
    for patch, layer, text in cells:
        assert text == best(patch, layer)
    # Heads stay in sight while the table moves under them.
    page.js("const s = document.querySelector('.table-scroll'); s.scrollTop = 40000; s.scrollLeft = 900")
    page.wait(lambda: page.js("return document.querySelector('#table tbody th').textContent.startsWith('22,')"))
    inside = """
        const edges = (selector) => document.querySelector(selector).getBoundingClientRect();
        const [box, head] = [edges(".table-scroll"), edges(arguments[0])];
        return [head.top - box.top, head.left - box.left];
    """
    assert page.js(inside, "#table thead th:first-child") == pytest.approx([1, 1], abs=1)
    assert page.js(inside, "#table thead th:nth-child(15)")[0] == pytest.approx(1, abs=1)
    assert page.js(inside, "#table tbody:nth-of-type(2) th")[1] == pytest.approx(1, abs=1)
    cell = page.find("#table tbody:nth-of-type(2) tr:nth-child(12) td:nth-child(15)")
    patch = int(cell.find_element("xpath", "..").get_attribute("data-patch"))
    cell.click()
    assert page.chosen_cell() == (patch, 13)
    assert page.place().startswith(f"Row {patch // 60}, column {patch % 60} at layer 13")
    assert page.words("latent")[0] == visible(lens.words[lens.which[13, patch, 0]].text)
    page.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.hash() == f"#1/15/0-{(patch + 1) // 60}-{(patch + 1) % 60}/latent/lock/table"
    assert page.js("return document.activeElement.classList.contains('chosen')")
    page.press("l")
    assert page.chosen_cell() == (patch + 1, 15)
    assert page.text("#table .hint").startswith("LogitLens")
    page.press("t")
    assert not page.find("#table").is_displayed()
    page.js("change({ patch: 5 })")
    page.press("t")
    assert page.chosen_cell() == (5, 15)
    assert page.js(inside, "#table td.chosen")[0] > 0
    page.assert_quiet()


def test_the_close_up_is_of_the_image_that_is_shown(browser: Any, tmp_path: Path) -> None:
    red, blue = (200, 30, 30), (30, 30, 200)
    pictures = [as_png(Image.new("RGB", (480, 360), colour)) for colour in (red, blue)]
    images = {number: replace(reading(), picture=picture) for number, picture in enumerate(pictures)}
    page = Page(browser, write_folder(tmp_path, images).as_uri())

    def in_the_middle() -> tuple[int, ...]:
        return tuple(page.pixels("#close-up")[84, 84, :3].tolist())

    page.open("#0/8/0-9-9")
    page.wait(lambda: in_the_middle() == red)
    page.press("n")
    page.wait(lambda: in_the_middle() == blue)
    page.browser.back()
    page.wait(lambda: in_the_middle() == red)
    page.press(Keys.ARROW_RIGHT, "n")
    page.wait(lambda: in_the_middle() == blue)
    page.assert_quiet()


@pytest.mark.parametrize("measure", ["word", "word-probability", "word-rank"])
def test_a_word_of_choice_is_mapped_from_the_candidates(page: Page, readings, measure: str) -> None:
    of = readings[0]
    lens = of.lenses[1]
    is_dog = np.array([word.text.strip().lower() == "dog" for word in lens.words])  # "dog" and "Dog", not "dogs"
    hits = is_dog[lens.which] & (lens.which >= 0)
    there, ranks = hits.any(axis=2), hits.argmax(axis=2)
    numbers = {"word": lens.scores, "word-probability": lens.probabilities, "word-rank": ranks[..., None]}[measure]
    values = np.where(there, np.take_along_axis(numbers, ranks[..., None] % numbers.shape[2], 2)[..., 0], np.nan)
    page.open(f"#0/8/0-0-0/logit/colours={measure}/word=%20DOG/nogrid")
    page.js("arguments[0].value = 100; arguments[0].dispatchEvent(new Event('input'))", page.find("#strength"))
    if measure == "word-rank":
        shares = 1 - values[2] / (lens.which.shape[2] - 1)
        assert page.texts("#legend .number") == [str((ranks[2][there[2]] == rank).sum()) for rank in range(5)]
    else:
        known = np.sort(values[there])
        low, high = (known[round(share * (len(known) - 1))] for share in (0.01, 0.99))
        shares = (values[2] - low) / (high - low)
    seen = colours(page)
    assert np.abs(seen - ramp(np.nan_to_num(shares).clip(0, 1)))[there[2]].max() < 8
    assert not seen[~there[2]].any()  # blank, as the legend says
    assert "not among the words that are kept of the patch" in page.text("#legend")
    page.assert_quiet()


def test_a_word_is_typed_and_the_command_for_all_patches_is_named(page: Page) -> None:
    page.open("#0/2/0-0-0/latent")
    page.press("f")
    assert page.find("#word").get_property("value") == page.words("latent")[0].strip()
    page.press("it's m, w & <b>", Keys.ENTER)  # over the chosen text; letters are no keys here
    typed = "it's m, w & <b>"
    assert page.hash().endswith(f"/colours=word/word={quote(typed, safe=chr(39))}")
    assert page.text("#legend strong") == "LatentLens"
    assert f"“{typed}” is not among the 5 words of any patch at this layer." in page.text("#legend")
    command = shlex.split(page.text("#legend .command"))
    asked = parse(FindCommand, command[2:], "lens find")
    assert (command[:2], asked.words, asked.lenses, asked.layers) == (["lens", "find"], (typed,), "latent", "2")
    assert "mask" not in page.hash()
    page.press("m")  # letters are keys again
    assert page.hash().endswith("/mask")
    page.assert_quiet()
