"""The viewer's pages in a real browser: they show what the runs say, and hostile texts stay texts."""

from __future__ import annotations

import contextlib
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lenscore.readings.image_reading import Picture
from lenscore.reports.writing import write_report
from lenscore.viewer.browser_pictures import shown_picture, thumbnail
from lenscore.viewer.candidate_words import visible
from lenscore.viewer.folder import write_viewer
from lenscore.viewer.readings import RunReadings
from lenscore.viewer.shown_models import ViewerModel
from lenscore.viewer.words_of_ids import SharedWords, WordsOfIds
from tests import made_readings
from tests.viewer_pages import LENSES, MadeReadings, Site

with contextlib.suppress(ImportError):  # without it the browser fixture skips
    from selenium.webdriver.common.keys import Keys


def test_the_index_says_what_is_seen(browser, report, judged, model_folder) -> None:
    verdicts = pd.concat(pd.read_json(path, lines=True) for path in sorted((judged[1] / "verdicts").iterdir()))
    own = verdicts[verdicts["control"] == ""]
    means = own.assign(yes=own["outcome"] == "yes").groupby(["lens", "layer"])["yes"].mean().groupby("lens").mean()
    site = Site(browser, report.viewer.as_uri())
    (seen,) = site.texts(".seen")
    for title, lens in zip(("LatentLens", "LogitLens", "EmbeddingLens"), LENSES, strict=True):
        assert f"{100 * means[lens]:.0f} %" in seen
        assert title in seen
    assert "60 patches of 12 images; the exact truth" in seen
    assert [text.split(" %")[0] for text in site.texts(".bars .rate")] == [
        f"{100 * means[lens]:.0f}" for lens in LENSES
    ]
    site.find("h3 a")[0].click()
    assert browser.current_url == (model_folder / "index.html").as_uri()
    site.find("#cards a")[2].click()
    assert browser.current_url.startswith((model_folder / "image.html").as_uri() + "#2")
    site.wait(lambda: site.find("#lenses .word"))
    assert "Truth" in site.browser.find_element("css selector", "body").text
    site.assert_quiet()


def test_only_words_of_one_store_or_vocabulary_are_shared(make_results, tmp_path: Path) -> None:
    """Ids of rows and of tokens are the same numbers."""
    results, shared, ids = make_results(tmp_path, images=1), SharedWords(), np.arange(5, dtype=np.int32)
    for lens in (*LENSES, *LENSES):
        words, places = WordsOfIds(results).of(lens, ids)
        again, at = WordsOfIds(results, shared=shared).of(lens, ids)
        assert [words[place] for place in places] == [again[place] for place in at]


def test_a_vocabulary_is_compared_once(make_results, tmp_path: Path, monkeypatch) -> None:
    results, compared, of = make_results(tmp_path, images=1), [], SharedWords.of
    monkeypatch.setattr(SharedWords, "of", lambda shared, source: compared.append(source) or of(shared, source))
    words = WordsOfIds(results)
    for one in range(5):
        for lens in LENSES:
            words.of(lens, np.array([one], np.int32))
    assert len(compared) == 2


def test_cards_show_what_is_known_of_the_images_and_can_be_filtered(browser, address, judged) -> None:
    images = pd.read_parquet(judged[0].path / "images.parquet")[:12]
    verdicts = pd.concat(pd.read_json(path, lines=True) for path in sorted((judged[1] / "verdicts").iterdir()))
    judged_patches = verdicts.groupby("image_id")[["row", "col"]].apply(lambda of: len(of.drop_duplicates()))
    site = Site(browser, address)
    assert site.texts("#cards .name") == [Path(path).name for path in images["path"]]
    assert site.texts("#cards .caption") == images["caption"].dropna().tolist()
    badges = [f"{count} judged patch{'es' if count > 1 else ''}" for count in judged_patches]
    assert site.texts("#cards .badge") == badges
    site.browser.execute_script("document.querySelector('#cards').scrollIntoView()")
    loaded = "return [...document.querySelectorAll('#cards img')].filter((image) => image.naturalWidth === 96).length"
    site.wait(lambda: site.browser.execute_script(loaded) == 12)
    site.type("#filter-text", "-00003.PNG & <i>MORE")
    assert [found.text.split("\n")[0] for found in site.visible("#cards li")] == ["validation-00003.png"]
    assert site.texts("#filter-count") == ["1 of 12"]
    site.type("#filter-text", "no such image")
    assert site.visible("#cards li") == []
    site.find("#filter-text")[0].send_keys(Keys.CONTROL, "a", Keys.BACKSPACE)
    assert len(site.visible("#cards li")) == 12
    assert site.texts("details summary") == ["1 unreadable"]
    assert site.texts("details li") == ["broken <b>.png: no <image>"]
    site.assert_quiet()


def test_the_first_page_shows_words_on_a_picture_and_links_the_report(browser, report, judged) -> None:
    site = Site(browser, report.viewer.as_uri())
    assert site.texts(".example figcaption") == ["Best words of some patches: LatentLens, layer 2"]
    words = site.texts(".example text")
    assert 1 < len(words) <= 9
    (file,) = [link.get_attribute("href") for link in site.find("header a")]
    assert file == report.report.as_uri()
    site.find(".example a")[0].click()
    site.wait(lambda: site.find("#lenses .word"))
    assert browser.current_url.partition("#")[2].startswith("0/2/")
    reading = dict(RunReadings(judged[0]).readings([0]))[0]
    latent, layer = reading.lenses[0], reading.layers.index(2)
    said = {visible(latent.words[which].text).strip() for which in latent.which[layer, :, 0].tolist()}
    assert {word.rstrip("…") for word in words} <= {word[: len(word) if len(word) <= 14 else 13] for word in said}
    site.assert_quiet()


def test_a_page_shows_24_images_and_all_on_demand(browser, make_results, tmp_path: Path) -> None:
    results = make_results(tmp_path, images=26, unreadable=False)
    model = ViewerModel("made", "0123456789abcdef", RunReadings(results))
    index = write_viewer(tmp_path / "viewer", [model], 100)
    assert "Rates are means" not in index.read_text()
    site = Site(browser, (index.parent / model.folder / "index.html").as_uri())
    assert len(site.visible("#cards li")) == 24
    site.type("#filter-text", "-00025")
    assert len(site.visible("#cards li")) == 1  # the filter looks at all
    assert site.visible("#cards-more") == []
    site.find("#filter-text")[0].send_keys(Keys.CONTROL, "a", Keys.BACKSPACE)
    (more,) = site.visible("#cards-more")
    assert more.text == "Show all 26 images"
    more.click()
    assert len(site.visible("#cards li")) == 26
    assert site.visible("#cards-more") == []
    site.assert_quiet()


@pytest.mark.usefixtures("without_figures")
def test_several_models_stand_in_a_grid_with_their_ablations(browser, make_results, judge, tmp_path: Path) -> None:
    same = {"connector": "swiglu", "seed": 1}
    made = [
        {"llm": "a/olmo", "vision": "b/clip", **same},
        {"llm": "a/olmo", "vision": "b/dino", **same},
        {"llm": "a/olmo", "vision": "b/clip", **same, "connector": "linear"},
        None,
    ]
    runs = []
    for number, made_of in enumerate(made):
        name = "evil/<script>alert(1)</script>\u202e\"'" if made_of is None else f"made/{number}"
        results = make_results(tmp_path / str(number), images=3, unreadable=False, model=name, made_of=made_of)
        runs.append(judge(results, tmp_path / str(number) / "judge", patches=6) if number < 2 else results.path)
    site = Site(browser, write_report(runs, tmp_path / "out").viewer.as_uri())
    assert site.texts(".grid thead th") == ["clip", "dino"]
    assert site.texts(".grid tbody th") == ["olmo"]
    assert site.texts(".grid td h3") == ["made/0", "made/1"]
    assert site.texts("[aria-labelledby=others] h3 a") == ["evil/<script>alert(1)</script>\u202e\"'"]
    assert site.texts("[aria-labelledby=ablations] h3") == ["made/2"]
    assert site.texts(".differs") == ["connector linear beside olmo × clip"]
    assert "2 of 2 models" in site.texts(".seen")[0] or "1 of 2 models" in site.texts(".seen")[0]
    links = [link.get_attribute("href") for link in site.find("h3 a")]
    assert len(set(links)) == 4
    for link in links:
        assert len(Site(browser, link).find("#cards a")) == 3
        site.assert_quiet()


def test_hostile_words_names_and_a_large_vocabulary_change_nothing(browser, tmp_path: Path) -> None:
    readings = MadeReadings()
    model = ViewerModel("<img src=x onerror=alert(5)>", "0123456789abcdef", readings, notes=("<b>said</b>",))
    index = write_viewer(tmp_path / "viewer", [model], 10)
    assert Site(browser, index.as_uri()).texts("h3") == [model.label]
    page = index.parent / model.folder / "index.html"
    site = Site(browser, page.as_uri())
    assert site.texts("h1") == [model.label]
    assert site.texts(".note") == ["<b>said</b>"]
    assert site.texts("#cards .name")[0] == "\"'><script>alert(4)</script>.png"
    assert site.texts("details li") == ["<b>broken: no <image>"]  # a browser drops NUL
    script = "const done = arguments[0]; WordIndex.open().then((index) => done(index.words.length))"
    assert browser.execute_async_script(script) > 100_000
    for word in made_readings.HOSTILE:
        if "\ud800" in word:  # no address can hold it
            continue
        site.search(word.lower())
        assert {image for image, *_ in site.links()} == {0}
        assert sum(site.counts().values()) > 0
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    site.search("word99999")
    assert site.links() == [(1, 8, "0-99-99", "latent", 1)]
    site.type("#word", "99999")
    site.wait(lambda: site.texts("#suggestions bdi") == ["word99999"])
    site.find("#found .gallery a")[0].click()
    site.wait(lambda: site.find("#lenses .word"))
    assert "word99999" in site.texts("[data-lens=latent] .word, .lens.latent .word")
    site.assert_quiet()


@pytest.mark.usefixtures("without_figures")
def test_a_file_that_is_gone_is_told(browser, make_results, tmp_path: Path) -> None:
    results = make_results(tmp_path, images=3, unreadable=False)
    Path(results.images()["path"][1].as_py()).unlink()
    Path(results.images()["path"][2].as_py()).write_bytes(b"something else")
    viewer = write_report([results.path], tmp_path / "out").viewer
    page = next(viewer.parent.glob("*/index.html"))
    site = Site(browser, page.as_uri())
    assert site.texts("#cards .gone") == ["file is gone"] * 2
    assert "3 images; the files of 2 are gone or were changed since." in site.texts("section > .about")
    words = Site(browser, quote(str(page.with_name("image.html"))).join(["file://", "#1/2/0-3-3/latent"]))
    words.wait(lambda: words.find("#lenses .word"))
    words.assert_quiet()


def test_the_same_readings_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        model = ViewerModel("made", "0123456789abcdef", MadeReadings())
        write_viewer(tmp_path / name, [model], 10)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) > 20
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_pictures_are_shown_as_the_model_saw_them(tmp_path: Path) -> None:
    upright, turned, clear = tmp_path / "upright.jpg", tmp_path / "turned.jpg", tmp_path / "clear.png"
    picture = Image.new("RGB", (400, 200), "red")
    picture.save(upright)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(turned, exif=exif)
    Image.new("RGBA", (50, 20), (0, 0, 0, 0)).save(clear)
    for path, size, same in ((upright, (400, 200), True), (turned, (200, 400), False), (clear, (50, 20), False)):
        shown = shown_picture(path, sha256(path.read_bytes()).hexdigest())
        assert isinstance(shown, Picture)
        assert (shown.data == path.read_bytes()) == same
        with Image.open(BytesIO(shown.data)) as image:
            assert image.size == size
            assert image.getexif().get(0x0112, 1) == 1
            assert shown.media_type == f"image/{image.format.lower()}"
        with Image.open(BytesIO(thumbnail(shown))) as image:
            assert max(image.size) <= 192
    assert shown_picture(upright, "0" * 64) is None
    assert shown_picture(tmp_path / "gone.png", "0" * 64) is None
