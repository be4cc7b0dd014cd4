"""`--tokens`: prompt and answer of each image, against transformers alone; the patches stay what they were."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from jobs import analyze_job
from jobs.analyze_job import AnalyzeJob
from lenscore import load_vlm
from lenscore.models.loading import Vlm
from lenscore.reports.results_table import write_results_table
from lenscore.viewer.folder import write_viewer
from lenscore.viewer.readings import RunReadings
from lenscore.viewer.shown_models import ViewerModel
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from storage_layouts.token_measures import ANSWER, PROMPT
from tests.jobs.test_analyze import complete

with contextlib.suppress(ImportError):  # then the browser fixture skips
    from selenium.webdriver.support.ui import WebDriverWait

MOST = 5


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, size in enumerate(((32, 32), (40, 24), (24, 40))):
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def job(tiny_vlm_folder: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> AnalyzeJob:
    return AnalyzeJob(
        str(tiny_vlm_folder),
        images,
        tmp_path_factory.mktemp("runs") / "all",
        lenses="logit,embedding",
        layers="0,3,final",
        prompt="the red dog is",
        tokens="all",
        max_new_tokens=MOST,
        images_per_shard=2,
    )


@pytest.fixture(scope="module")
def results(job: AnalyzeJob) -> LensResults:
    return LensResults.open(complete(job).path)


def own_answer(vlm: Vlm, path: Path) -> tuple[list[int], int, torch.Tensor]:
    """Ids of prompt and answer, the length of the prompt, and the hidden states of one pass over both."""
    inputs = vlm.processor(images=[Image.open(path)], text=["<image> the red dog is"], return_tensors="pt")
    ids = inputs["input_ids"]
    length = ids.shape[1]
    with torch.no_grad():
        for _ in range(MOST):
            given = {"input_ids": ids, "pixel_values": inputs["pixel_values"]}
            ids = torch.cat([ids, vlm.model(**given).logits[:, -1:].argmax(-1)], dim=1)
            if ids[0, -1] == vlm.tokenizer.eos_token_id:
                break
        hidden = vlm.model(input_ids=ids, pixel_values=inputs["pixel_values"], output_hidden_states=True)
    return ids[0].tolist(), length, torch.stack(hidden.hidden_states)[:, 0]


def test_prompt_and_answer_are_the_models_own(results: LensResults, tiny_vlm_folder: Path, images: Path) -> None:
    vlm = load_vlm(tiny_vlm_folder, "cpu", torch.float32)
    image_token = vlm.model.config.image_token_id
    embeddings = torch.nn.functional.normalize(vlm.model.get_input_embeddings().weight.detach(), dim=-1)
    answers = set()
    for image_id in range(3):
        ids, length, hidden = own_answer(vlm, images / f"{image_id}.png")
        kept = [position for position, token in enumerate(ids) if token != image_token]
        tokens = results.texts([image_id])
        assert tokens["token_id"].to_pylist() == [ids[position] for position in kept]
        assert tokens["col"].to_pylist() == kept
        assert tokens["view"].to_pylist() == [ANSWER if position >= length else PROMPT for position in kept]
        answers.add(tuple(ids[length:]))
        lines = results.results("embedding", 3, [image_id], folder="text_results")
        assert lines["col"].to_pylist() == kept
        found = np.array(lines["scores"].to_pylist())
        cosines = torch.nn.functional.normalize(hidden[3][kept], dim=-1) @ embeddings.T
        at = torch.from_numpy(np.array(lines["ids"].to_pylist()).astype(np.int64))
        assert np.abs(found - cosines.gather(1, at).numpy()).max() < 1e-5
        final = results.distributions("logit", [image_id], folder="text_distributions")
        assert np.abs(np.array(final["divergences"].to_pylist())[:, 2]).max() < 1e-6
        best = results.results("logit", results.layers[-1], [image_id], folder="text_results")["ids"].to_pylist()
        following = dict(zip(kept, (line[0] for line in best), strict=True))
        for position in range(length - 1, len(ids) - 1):
            if ids[position + 1] in range(5, 27):  # a word, which is a candidate
                assert following[position] == ids[position + 1]
    assert len(answers) > 1


def test_patches_are_those_of_a_run_without_text(job: AnalyzeJob, results: LensResults, tmp_path: Path) -> None:
    plain = LensResults.open(complete(dataclasses.replace(job, out=tmp_path / "plain", tokens="image")).path)
    assert not plain.has_texts
    assert len(plain.texts()) == 0
    assert plain.results()["ids"].equals(results.results()["ids"])
    assert plain.geometry().equals(results.geometry())
    assert "tokens" not in plain.run.config  # and so is the run of an earlier version
    text = LensResults.open(complete(dataclasses.replace(job, out=tmp_path / "text", tokens="image,text")).path)
    assert set(text.texts()["view"].to_pylist()) == {PROMPT}
    prompts = results.texts().filter(np.equal(results.texts()["view"].to_numpy(), PROMPT))
    assert text.texts().equals(prompts)
    answers = LensResults.open(complete(dataclasses.replace(job, out=tmp_path / "a", tokens="image,generated")).path)
    assert set(answers.texts()["view"].to_pylist()) == {ANSWER}


def test_the_viewer_has_a_reading_of_each_text(results: LensResults) -> None:
    readings = RunReadings(results)
    assert readings.has_texts
    for image_id, reading in readings.texts(readings.image_ids):
        tokens = results.texts([image_id])
        words = results.token_words()
        assert reading.tokens == tuple(words[token] or f"#{token}" for token in tokens["token_id"].to_pylist())
        assert reading.prompt_tokens == tokens["view"].to_pylist().count(PROMPT)
        assert (reading.layers, reading.depth) == ((0, 3, 4), 4)
        logit = reading.lenses[0]
        lines = results.results("logit", 3, [image_id], folder="text_results")
        assert np.array_equal(logit.scores[1], np.array(lines["scores"].to_pylist(), np.float32))
        assert logit.next_token is not None
        assert logit.next_token.divergences.shape == (3, len(tokens))


def test_exported_tokens_are_those_of_the_pages(results: LensResults, tmp_path: Path) -> None:
    lines = write_results_table(results, tmp_path / "run.csv")
    assert {file.name: count for file, count in lines.items()} == {
        "run.csv": len(results.results()) * results.top_k,
        "run-texts.csv": len(results.results(folder="text_results")) * results.top_k,
    }
    table = pd.read_csv(tmp_path / "run-texts.csv", keep_default_na=False)
    readings = RunReadings(results)
    for image_id, reading in readings.texts(readings.image_ids):
        own = table[table["image_id"] == image_id]
        tokens = own.drop_duplicates("position")
        assert tokens["position"].tolist() == results.texts([image_id])["col"].to_pylist()
        assert tokens["text"].tolist() == list(reading.tokens)
        assert tokens["answer"].sum() == len(reading.tokens) - reading.prompt_tokens
        logit = reading.lenses[0]
        for place, layer in enumerate(reading.layers):
            best = own[(own["lens"] == "logit") & (own["layer"] == layer) & (own["rank"] == 1)]
            assert best["word"].tolist() == [logit.words[word].text for word in logit.which[place, :, 0]]
            for name, expected in (
                ("probability", logit.probabilities[place, :, 0]),
                ("divergence", logit.next_token.divergences[place]),
            ):
                assert best[name].astype(float).tolist() == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-7)


def test_a_character_of_several_tokens_stands_once_in_a_run_too(
    job: AnalyzeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_vlm: Vlm
) -> None:
    the, red, dog = tiny_vlm.tokenizer.convert_tokens_to_ids(["the", "red", "dog"])
    parts = {the: b"\xe7", red: b"\x8a", dog: b"\xac"}
    monkeypatch.setattr(
        analyze_job, "token_texts", lambda tokenizer, rows: ["\ufffd" if i in parts else f"t{i}" for i in range(rows)]
    )
    monkeypatch.setattr(analyze_job, "token_bytes", lambda tokenizer, token: parts[token])
    run = LensResults.open(complete(dataclasses.replace(job, out=tmp_path / "text", tokens="image,text")).path)
    _, reading = next(RunReadings(run).texts([0]))
    assert reading.tokens[1:4] == ("<0xE7>", "<0x8A>", "犬")
    words = {word.token_id: word.text for word in reading.lenses[1].words}  # of EmbeddingLens at the tokens themselves
    assert (words[red], words[dog]) == ("<0x8A>", "<0xAC>")
    _, picture = next(RunReadings(run).readings([0]))
    of_patches = {word.token_id: word.text for word in picture.lenses[1].words}
    assert {of_patches.get(token, words[token]) for token in parts} == {"<0xE7>", "<0x8A>", "<0xAC>"}
    write_results_table(run, tmp_path / "run.parquet")
    table = pd.concat(pd.read_parquet(tmp_path / f"run{name}.parquet") for name in ("", "-texts"))
    assert set(table["token"][table["id"] == the]) == {"<0xE7>"}
    assert not table["token"].str.contains("\ufffd").any()
    del run.run.require_plan().facts["token_bytes"]  # as in runs of a version that kept none
    _, reading = next(RunReadings(run).texts([0]))
    assert reading.tokens[1:4] == ("\ufffd",) * 3


def test_a_page_of_the_viewer_shows_the_text(results: LensResults, tmp_path: Path, browser: Any) -> None:
    readings = RunReadings(results)
    write_viewer(tmp_path / "viewer", [ViewerModel("tiny", "0" * 8, readings)], max_images=2)
    assert len(list((tmp_path / "viewer").glob("*/texts/*.html"))) == 2
    (page,) = (tmp_path / "viewer").glob("*/image.html")
    browser.get(f"{page.as_uri()}#1/3")
    wait = WebDriverWait(browser, 20)
    wait.until(lambda _: browser.find_elements("link text", "prompt and answer"))
    browser.find_element("link text", "prompt and answer").click()
    wait.until(lambda _: browser.find_elements("css selector", "#tokens tbody tr"))
    _, reading = next(readings.texts([1]))
    said = [button.text for button in browser.find_elements("css selector", "#text button")]
    assert said == [token.strip() or "(empty)" for token in reading.tokens]
    answer = browser.find_elements("css selector", "#tokens tr.answer")
    assert len(answer) == len(reading.tokens) - reading.prompt_tokens > 0
    answer[-1].find_elements("css selector", "td")[1].click()
    assert f"token={len(reading.tokens) - 1}" in browser.current_url
    assert "layer=3" in browser.current_url
    browser.find_element("css selector", "a.home").click()
    wait.until(lambda _: "image.html#1" in browser.current_url)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_same_tokens_are_the_same_run(job: AnalyzeJob) -> None:
    def recorded(**changes: object) -> dict[str, object]:
        return dataclasses.replace(job, **changes).recorded()

    assert recorded(tokens="all") == recorded(tokens="generated, text,image")
    assert recorded(tokens="all") != recorded(tokens="all", max_new_tokens=MOST + 1)
    assert recorded(layers="0,3,4") == recorded(layers="0,3,final") != recorded(layers="0,final,3")
    assert recorded(layers="paper, 4")["layers"] == "paper, final"
    assert recorded(layers="-4,3")["layers"] == "-4,3"
    assert recorded(tokens="image,text", max_new_tokens=7) == recorded(tokens="text,image", max_new_tokens=8)


def test_no_image_is_read_past_the_context_of_the_model(
    job: AnalyzeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Path
) -> None:
    longer = dataclasses.replace(job, out=tmp_path / "run", max_new_tokens=236)
    said = f"{images}/0.png: 257 tokens with prompt and answer; the model reads at most 256; shorten --prompt or --max"
    with pytest.raises(InputError, match=said):
        longer.open_run()
    assert not longer.out.exists()
    assert dataclasses.replace(longer, out=tmp_path / "text", tokens="image,text").open_run().run_id
    monkeypatch.setattr(AnalyzeJob, "_require_room", lambda job: None)  # as for images that are larger than the first
    with pytest.raises(InputError, match=said):
        complete(longer)


def test_what_is_no_kind_of_token_is_refused(job: AnalyzeJob) -> None:
    for tokens in ("text", "image,words", "", "all,image"):
        with pytest.raises(InputError, match=r"--tokens .*: expected image, alone or with text and generated"):
            dataclasses.replace(job, tokens=tokens)
    with pytest.raises(InputError, match="--max-new-tokens: found 0"):
        dataclasses.replace(job, max_new_tokens=0)
