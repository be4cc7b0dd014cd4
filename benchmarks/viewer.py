"""The viewer of a large run in a real browser: the size of its pages, and the time to open, step and search.

    python -m benchmarks.viewer [--images 300] [--grid 24] [--keep FOLDER]

Builds a synthetic run (9 layers, 3 lenses, 5 words each, a vocabulary of 100,000 words), writes the viewer and measures
it in headless Chromium from file://. The bounds: a page shows its first words within 2 s, a step between patches takes
at most 50 ms, until the frame that shows it. The exit code is 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from benchmarks.measuring import machine, markdown_table, timed, work_folder
from benchmarks.viewer_run import LAYERS, LENSES, Size, make_run
from lenscore.statistics.sources import read_sources
from lenscore.viewer.folder import write_viewer
from lenscore.viewer.shown_models import model_of_run
from tests.chromium import FLAGS

OPEN_BOUND, STEP_BOUND = 2000.0, 50.0  # milliseconds
OPENINGS = 7
STEPS = 200
SEARCHES = 15

# Records the time of the first frame in which the page shows words.
_WATCH = """
const selector = {"index": "h3", "model": ".gallery .name", "image": "#lenses .word"};
window.addEventListener("DOMContentLoaded", () => {
  const isImage = location.pathname.endsWith("image.html");
  const name = isImage ? "image" : document.querySelector("#search") ? "model" : "index";
  const look = () => {
    if (!document.querySelector(selector[name])) return false;
    requestAnimationFrame(() => setTimeout(() => { window.firstWords = performance.now(); }));
    return true;
  };
  if (!look()) {
    const watch = new MutationObserver(() => { if (look()) watch.disconnect(); });
    watch.observe(document, { childList: true, subtree: true });
  }
});
"""
# Presses a key and waits for the frame with other words; returns the milliseconds of each press.
_PRESS = """
const [keys, count, done] = arguments;
const text = () => document.querySelector("#place").textContent;
const times = [];
(async () => {
  for (let i = 0; i < count; i += 1) {
    const before = text();
    const began = performance.now();
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key: keys[i % keys.length], bubbles: true }));
    await new Promise((next) => {
      const look = () => requestAnimationFrame(() => setTimeout(() => (text() !== before ? next() : look())));
      look();
    });
    times.push(performance.now() - began);
  }
  done(times);
})();
"""
_SEARCH = """
const [word, done] = arguments;
const found = document.querySelector("#found");
const began = performance.now();
const watch = new MutationObserver(() => {
  if (found.querySelector(".word")?.textContent !== word || !found.querySelector(".gallery li")) return;
  watch.disconnect();
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
});
watch.observe(found, { childList: true, subtree: true });
location.hash = new URLSearchParams({ word });
"""
_SUGGEST = """
const [text, done] = arguments;
const input = document.querySelector("#word"), list = document.querySelector("#suggestions");
const began = performance.now();
const watch = new MutationObserver(() => {
  watch.disconnect();
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
});
watch.observe(list, { childList: true });
input.value = text;
input.dispatchEvent(new Event("input", { bubbles: true }));
"""


def main() -> int:
    """Print what was measured as Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--grid", type=int, default=24)
    parser.add_argument("--keep", type=Path, help="write into this new folder and leave it there")
    arguments = parser.parse_args()
    with work_folder(arguments.keep) as folder:
        return measure(folder, Size(images=arguments.images, grid=arguments.grid))


def measure(folder: Path, size: Size) -> int:
    """Build, write and measure; returns 1 if a bound is missed."""
    print("building the run", file=sys.stderr)
    _, judged = make_run(folder / "run", size)
    models = [model_of_run(source) for source in read_sources([judged]).analyses]
    wall, processor = timed(lambda: write_viewer(folder / "viewer", models, size.images))
    index = folder / "viewer" / "index.html"
    print(
        f"{machine()}\n{size.images} images, {size.grid} x {size.grid} patches, {len(LAYERS)} layers, "
        f"{len(LENSES)} lenses"
    )
    print(f"written in {wall:.0f} s ({processor:.0f} s of processor time)\n")
    print(markdown_table(["page", "kB"], weights(index.parent, models[0].folder)) + "\n")
    browser = _open_browser(folder / "browser")
    try:
        rows = timings(browser, index, models[0].folder)
    finally:
        browser.quit()
    shown = [[what, median, high, bound or "–"] for what, median, high, bound in rows]
    print(markdown_table(["what", "median ms", "95th percentile ms", "bound ms"], shown))
    missed = [what for what, _, high, bound in rows if bound is not None and high > bound]
    print("\nevery bound is kept" if not missed else f"\nmissed: {', '.join(missed)}")
    return int(bool(missed))


def weights(viewer: Path, model: str) -> list[list[Any]]:
    """Returns the size of what a browser reads for each page, in kB."""

    def kb(*paths: Path) -> float:
        return sum(path.stat().st_size for path in paths) / 1000

    pages = viewer / model
    images = sorted((pages / "images").iterdir(), key=lambda path: path.stat().st_size)
    words = sorted((pages / "words").glob("[0-9]*.js"))
    candidates = list((pages / "candidates").iterdir())
    small = sorted((viewer / "pictures").iterdir())
    styles, scripts = list(viewer.glob("*.css")), list(viewer.glob("*.js"))
    everything = [path for path in viewer.rglob("*") if path.is_file()]
    return [
        ["styles and scripts of all pages", kb(*styles, *scripts)],
        ["index.html", kb(viewer / "index.html")],
        ["model page, with run.js", kb(pages / "index.html", pages / "run.js")],
        ["thumbnail, median", kb(small[len(small) // 2])],
        ["image page, without data", kb(pages / "image.html")],
        ["data of an image, picture included, median", kb(images[len(images) // 2])],
        ["words of the images, a file of many images, mean", kb(*candidates) / len(candidates)],
        ["words of all images", kb(*candidates)],
        ["vocabulary, read with the first search", kb(pages / "words" / "vocabulary.js")],
        ["file of the word index, mean", kb(*words) / len(words)],
        ["whole word index", kb(*words)],
        ["whole viewer", kb(*everything)],
        ["files of the viewer, number", float(len(everything))],
    ]


def timings(browser: Any, index: Path, model: str) -> list[tuple[str, float, float, float | None]]:
    """Returns rows of (what, median, 95th percentile, bound) in milliseconds."""
    page = index.parent / model
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _WATCH})
    rows = []
    opened: dict[str, list[float]] = {"index": [], "model": [], "image": []}
    for turn in range(OPENINGS):
        for name, address in (
            ("index", index.as_uri()),
            ("model", (page / "index.html").as_uri()),
            ("image", f"{(page / 'image.html').as_uri()}#{turn}/8/0-3-5/latent"),
        ):
            browser.get("about:blank")
            browser.get(address)
            opened[name].append(_wait(browser, "return window.firstWords"))
    for name, times in opened.items():
        rows.append(_row(f"{name} page, until its first words are shown", times, OPEN_BOUND))
    chain = [sum(times) for times in zip(*opened.values(), strict=True)]
    rows.append(_row("index, model and image page one after the other", chain, OPEN_BOUND))
    keys = ["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"]
    rows.append(_row("a step between patches", browser.execute_async_script(_PRESS, keys, STEPS), STEP_BOUND))
    rows.append(_row("a change of the layer", browser.execute_async_script(_PRESS, [".", ","], STEPS), STEP_BOUND))
    browser.get((page / "index.html").as_uri())
    words = browser.execute_async_script(
        "const done = arguments[0]; WordIndex.open().then((index) => done(index.words.filter((_, i) => i % 997 === 0)))"
    )
    browser.get("about:blank")
    browser.get((page / "index.html").as_uri())
    _wait(browser, "return window.firstWords")
    searches = [browser.execute_async_script(_SEARCH, word) for word in words[: SEARCHES + 1]]
    rows.append(("the first search, which loads the vocabulary", searches[0], searches[0], None))
    rows.append(_row("a search for another word", searches[1:], None))
    typed = [browser.execute_async_script(_SUGGEST, text) for text in ("a", "ba", "ka", "qq", "nar", "zo", "stel", "e")]
    rows.append(_row("suggestions after a letter", typed, None))
    return rows


def _row(what: str, times: list[float], bound: float | None) -> tuple[str, float, float, float | None]:
    return what, statistics.median(times), sorted(times)[min(len(times) - 1, int(0.95 * len(times)))], bound


def _wait(browser: Any, script: str) -> float:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if (found := browser.execute_script(script)) is not None:
            return float(found)
    raise TimeoutError(f"{browser.current_url}: never came true: {script}")


def _open_browser(profile: Path) -> Any:
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    browser.set_script_timeout(120)
    return browser


if __name__ == "__main__":
    sys.exit(main())
