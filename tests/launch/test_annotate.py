"""lens annotate and lens agreement, from a judge run over a person at a real browser to the measured agreement."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.judge_job import JudgeJob
from jobs.work import work
from launch import agreement, annotate
from lenscore.judging.patches import readable_images, sample_patches, whole_patches
from lenscore.shapes import patch_truth, read_scene
from storage_layouts.results import LensResults
from tests import synthetic_run

try:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
except ImportError:
    pass  # then the browser fixture skips


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> LensResults:
    return synthetic_run.make_results(tmp_path_factory.mktemp("annotate"))


@pytest.fixture(scope="module")
def judged(results: LensResults) -> Path:
    job = JudgeJob(results.path, results.path.parent / "judged", patches=20)
    run = job.open_run()
    job.plan(run, lambda message: None)
    assert work(run, lambda: job.open_worker(run, "cpu"), "worker").exit_code == 0
    return run.path


class Page:
    """The page as a person uses it."""

    def __init__(self, driver: Any, study: Path) -> None:
        self.driver, self.entries = driver, json.loads((study / "data.json").read_text())
        driver.get_log("browser")
        driver.get((study / "index.html").as_uri())

    def find(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return [one.get_property("textContent") for one in self.find(selector)]

    def press(self, *keys: str) -> None:
        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def answer(self, words: set[str]) -> None:
        for line, word in zip(self.find("#words li"), self.words, strict=True):
            if word in words:
                line.find_elements("css selector", "button")[0].click()
                break  # the page draws its words anew
        if not words:
            self.find("#none")[0].click()

    @property
    def words(self) -> list[str]:
        return self.texts("#words bdi")

    def export(self, folder: Path) -> dict[str, Any]:
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
        before = set(folder.glob("*.json"))
        self.find("#export")[0].click()
        deadline = time.monotonic() + 20
        while not (new := set(folder.glob("*.json")) - before) and time.monotonic() < deadline:
            time.sleep(0.05)
        (path,) = new
        return json.loads(path.read_text())

    def assert_quiet(self) -> None:
        """No error, no request, no alert, and nothing on the page that a hostile word put there."""
        assert self.driver.get_log("browser") == []
        assert len(self.find("script")) == 2
        assert len(self.find("img")) == 2
        loaded = "return performance.getEntriesByType('resource').filter((one) => !one.name.startsWith('data:')).length"
        assert self.driver.execute_script(loaded) == 0


def test_a_person_and_the_exact_judge_agree_as_often_as_the_person_is_right(
    browser,
    judged: Path,
    results: LensResults,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = tmp_path / "study"
    assert annotate.main(["--results", str(judged), "--out", str(study), "--patches", "20", "--lenses", "latent"]) == 0
    page = Page(browser, study)
    assert len(page.entries) == 20
    paths = results.images()["path"].to_pylist()
    page.find("#user")[0].send_keys("Zoë <b>/..")
    wrong = 0
    for n, entry in enumerate(page.entries):
        assert page.words == entry["candidates"]
        truth = patch_truth(read_scene(paths[entry["image_id"]]), tuple(entry["box"]))
        right = {word for word in entry["candidates"] if word.lower() in truth.aspects["noun"]}
        if n < 3:  # this person errs three times
            right, wrong = set() if right else {entry["candidates"][0]}, wrong + 1
        page.answer(right)
        page.press(Keys.ARROW_RIGHT)
    page.assert_quiet()
    session = page.export(study / "results")
    assert (session["userId"], len(session["results"])) == ("Zoë <b>/..", 20)
    assert [result["instanceId"] for result in session["results"]] == [entry["id"] for entry in page.entries]
    (file,) = (study / "results").iterdir()
    assert file.name == f"evaluation_Zoë_b__{session['sessionId']}.json"
    capsys.readouterr()
    assert agreement.main(["--human", str(study), "--judge", str(judged), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    everything = found["agreements"][0]
    assert (everything["judge"], everything["model"], everything["n"]) == ("truth", "all", 20)
    assert everything["accuracy"] == pytest.approx(1 - wrong / 20)
    assert found["unmatched"] == {}
    assert agreement.main(["--human", str(study), "--judge", str(judged)]) == 0
    assert "85 %" in capsys.readouterr().out


def test_keys_relations_reload_and_another_person(browser, results: LensResults, tmp_path: Path) -> None:
    study = tmp_path / "study"
    assert annotate.main(["--results", str(results.path), "--out", str(study), "--patches", "6"]) == 0
    page = Page(browser, study)
    assert not page.find("#export")[0].is_enabled()
    first, second = page.entries[0]["candidates"][:2]
    page.press("1", "2", "2", Keys.ARROW_RIGHT, "0", Keys.ARROW_RIGHT, "1", "1", "1", "1")  # the last is off again
    page.driver.refresh()
    assert page.texts("#place") == ["3 of 6"]
    assert page.texts("#answered") == ["2 answered"]
    assert not page.find("#export")[0].is_enabled()
    page.find("#user")[0].send_keys("Ben 1")  # the digit is no answer
    answers = page.export(study / "results")["results"]
    assert [(one["selectedWords"], one["noneSelected"]) for one in answers] == [
        ([{"word": first, "relation": "concrete"}, {"word": second, "relation": "abstract"}], False),
        ([], True),
    ]
    page.find("#anew")[0].click()
    page.driver.switch_to.alert.accept()
    page.driver.refresh()
    assert page.texts("#answered") == ["0 answered"]
    assert page.find("#user")[0].get_property("value") == ""
    page.assert_quiet()


def test_hostile_words_stay_words(browser, results: LensResults, tmp_path: Path) -> None:
    study = tmp_path / "study"
    command = ["--results", str(results.path), "--out", str(study), "--patches", "24", "--lenses", "logit,embedding"]
    assert annotate.main(command) == 0
    page = Page(browser, study)
    seen = set()
    for entry in page.entries:
        assert page.words == entry["candidates"]
        seen |= set(entry["candidates"]) & set(synthetic_run.HOSTILE)
        page.press(Keys.ARROW_RIGHT)
    assert seen == set(synthetic_run.HOSTILE)
    page.assert_quiet()


def test_people_see_the_patches_of_a_judge_with_the_same_seed(
    results: LensResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def places(path: Path, out: str, *flags: str) -> dict[str, Any]:
        command = ["--results", str(path), "--out", str(tmp_path / out), "--patches", "9", "--seed", "5", *flags]
        assert annotate.main(command) == 0
        entries = json.loads((tmp_path / out / "data.json").read_text())
        return {
            (entry["image_sha256"], entry["patch_row"], entry["patch_col"]): (entry["layer"], entry["lens"])
            for entry in entries
        }

    images = readable_images(results.images(), results.geometry())
    sample = sample_patches(images, 9, 5, whole_patches)
    drawn = places(results.path, "one")
    assert set(drawn) == {(place.sha256, place.row, place.col) for place in sample}
    assert places(results.path, "two", "--layers", "5,0,2", "--lenses", "logit,embedding,latent") == drawn
    assert {lens for _, lens in places(results.path, "three", "--lenses", "logit").values()} == {"logit"}
    monkeypatch.setattr(synthetic_run, "LAYERS", (5, 0, 2))
    turned = synthetic_run.make_results(tmp_path / "turned")  # the same images, layers in another order
    assert places(turned.path, "four") == drawn
    monkeypatch.setattr(synthetic_run, "LAYERS", (0, 2, 5))
    last = synthetic_run.make_results(tmp_path / "last", depth=5)  # layer 5 is the output of the last block
    assert places(last.path, "five") == places(results.path, "six", "--layers", "0,2")
    assert {layer for layer, _ in places(last.path, "seven", "--layers", "5").values()} == {5}


def test_wrong_requests_are_one_clear_line(
    results: LensResults, judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, message in (
        (["--results", str(judged), "--top-k", "2"], "whose patches and words are settled"),
        (["--layers", "7"], "--layers: "),
        (["--lenses", "tuned"], "has no 'tuned'; expected some of latent, logit, embedding"),
        (["--top-k", "4"], "--top-k: found 4, expected 1 to 3"),
        (["--patches", "0"], "--patches: found 0"),
        (["--results", str(tmp_path)], "not a run folder"),
        (["--box-share", "2"], "--box-share: found 2"),
        (["--box-share", "0"], "--box-share: found 0"),
    ):
        given = flags if "--results" in flags else ["--results", str(results.path), *flags]
        assert annotate.main([*given, "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
