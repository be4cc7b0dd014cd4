"""Erasing and writing words on the tiny LLaVA, against whole passes with a hook."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from markupsafe import escape

import lenscore
from jobs.intervene_job import InterveneJob
from launch import intervene
from lenscore.lenses import ContextualIndex
from lenscore.models.greedy_answer import followed_by, placeholders
from lenscore.models.loading import Vlm
from lenscore.reports.dose_curves import word_edits_section
from lenscore.statistics.sources import read_sources
from lenscore.statistics.turned_answers import summarise
from lenscore.viewer.answers_page import answers_page
from storage_layouts.errors import InputError
from storage_layouts.interventions import read_answers, read_edits, read_effects
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from tests.conftest import SPECIAL, WORDS
from tests.jobs.test_intervene import ANSWER, IMAGES, Plain, analyzed
from tests.jobs.test_tune import complete
from tests.lenscore.reports.test_legible import assert_legible

__all__ = ["analyzed"]

DOSES = (0.0, 0.5, 1.0, 30.0)


@pytest.fixture
def job(analyzed: Path, tmp_path: Path) -> InterveneJob:
    return InterveneJob(
        analyzed / "results",
        tmp_path / "run",
        patches=2,
        truth=str(analyzed / "boxes.csv"),
        max_new_tokens=ANSWER,
        substitutes="none",
        erase="dog,cat",
        write="tree",
        doses="0,0.5,1,30",
    )


class Directions:
    """Directions of words in float64, from the files: unit vector, and the share that the word's vectors have of it."""

    def __init__(self, vlm: Vlm, index: ContextualIndex) -> None:
        self.rows = torch.cat([torch.cat(list(index.blocks(layer))) for layer in index.available_layers]).double()
        self.tokens = np.concatenate([index.words(i).rows["token_id"].to_numpy() for i in index.available_layers])
        of_layer = np.repeat(index.available_layers, [index.rows(layer) for layer in index.available_layers])
        self.means = torch.stack([self.rows[torch.from_numpy(of_layer == layer)].mean(0) for layer in of_layer])
        embeddings = vlm.model.get_input_embeddings().weight.detach().double()
        self.tables = {
            "embedding": embeddings / embeddings.norm(dim=1, keepdim=True),
            "logit": vlm.model.get_output_embeddings().weight.detach().double(),
        }

    def of(self, lens: str, word: str, states: torch.Tensor) -> tuple[torch.Tensor, float]:
        token = len(SPECIAL) + WORDS.index(word.lower())
        if lens == "latent":
            own = np.flatnonzero(self.tokens == token)
            cosines = (states / states.norm(dim=1, keepdim=True)).mean(0) @ self.rows[own].T
            own = own[np.argsort(-cosines.numpy(), kind="stable")[:5]]
            vectors, centre = self.rows[own], self.means[own].mean(0)
        else:
            table = self.tables[lens]
            vectors, centre = table[[token]], table[len(SPECIAL) : len(SPECIAL) + len(WORDS)].mean(0)
        unit = vectors.mean(0) - centre
        unit /= unit.norm()
        return unit, float((vectors / vectors.norm(dim=1, keepdim=True) @ unit).mean())


def generated(plain: Plain, vlm: Vlm, layer: int, tokens: list[int], states: torch.Tensor) -> str:
    """The greedy answer without a cache: each token from a whole pass with a hook."""
    length = plain.inputs["input_ids"].shape[1]
    before = length - len(plain.answer)
    inputs = {n: v[:, :before] if v.shape[:2] == (1, length) else v for n, v in plain.inputs.items()}
    ids: list[int] = []
    old, plain.answer = (plain.inputs, plain.answer), torch.zeros(1)  # so that one place is read: the last but one
    while len(ids) < ANSWER:
        plain.inputs = followed_by(vlm.model, inputs, torch.tensor([*ids, 0]))
        scores = plain.run(layer, tokens, states)[0][0]
        scores[placeholders(vlm.model.config)] = -torch.inf
        ids.append(int(scores.argmax()))
        if ids[-1] == vlm.model.generation_config.eos_token_id:
            break
    plain.inputs, plain.answer = old
    return str(vlm.tokenizer.decode(ids, skip_special_tokens=True))


def test_edits_are_those_of_whole_passes(job: InterveneJob, analyzed: Path, tiny_vlm_folder: Path) -> None:
    run = complete(job)
    found, answers = (
        read_edits(run).to_pandas(),
        read_answers(run).to_pandas().set_index(["image_id", "answer"])["text"],
    )
    assert not len(read_effects(run))
    others = run.require_plan().facts["other_words"]
    assert set(others) == {"dog", "cat", "tree"}
    assert set(others.values()) <= set(WORDS) - {"dog", "cat", "tree"}
    tops = LensResults.open(job.results).results().to_pandas().set_index(["image_id", "layer", "lens"])
    vlm = lenscore.load_vlm(tiny_vlm_folder, "cpu", torch.float32)
    index = lenscore.ContextualIndex.from_store(analyzed / "store.zarr")
    directions, checked = Directions(vlm, index), 0
    sampled = {image["image_id"]: image["patches"] for image in _sample(run)}
    for image in range(IMAGES):
        plain = Plain(vlm, analyzed / "images" / f"{image}.png")
        mine = found[found["image_id"] == image]
        for (edit, word, layer, lens), lines in mine.groupby(["edit", "word", "layer", "lens"]):
            token, best = len(SPECIAL) + WORDS.index(word.lower()), tops.loc[(image, layer, lens)]
            ids = np.stack(best["ids"])
            said = ((directions.tokens[ids] if lens == "latent" else ids) == token).any(
                axis=1
            )  # layers have equal rows
            tokens = (
                sorted(4 * r + c for _, r, c in sampled[image]) if edit == "write" else np.flatnonzero(said).tolist()
            )
            states = plain.states[layer][tokens]
            unit, share = directions.of(lens, word, states)
            steps = (states.norm(dim=1) * share if edit == "write" else 0) - states @ unit
            other, _ = directions.of(lens, others[word], states)
            for line in lines.to_dict("records"):
                if line["direction"] in ("random", "other-patches"):
                    continue  # a hash chooses them; see below
                along = unit if line["direction"] == "word" else other
                moved = states + line["dose"] * steps[:, None] * along
                if edit == "erase" and line["direction"] == "word" and line["dose"] == 1:
                    assert (moved @ unit).abs().max() < 1e-12
                expected = plain.effect(layer, tokens, moved, token)
                names = ("next_divergence", "divergence", "log_likelihood", "word_probability")
                np.testing.assert_allclose([line[name] for name in names], expected, rtol=2e-3, atol=2e-5)
                checked += 1
                if line["direction"] == "other-word" or line["dose"] not in (1, 30):
                    continue  # each answer takes as many whole passes as it has tokens
                text = generated(plain, vlm, layer, tokens, moved)
                assert answers[image, line["answer"]] == text
                before = vlm.tokenizer.decode(plain.answer, skip_special_tokens=True)
                assert answers[image, 0] == before
                assert (line["said_before"], line["said"]) == tuple(
                    word.lower() in one.split() for one in (before, text)
                )
                assert line["tokens"] == len(tokens)
    assert checked == len(found[found["direction"].isin(["word", "other-word"])]) > 50
    assert (found["answer"] > 0).any()
    assert (found.loc[found["dose"] == 0, "divergence"].abs() < 1e-9).all()
    controls = found[found["dose"] == 1].set_index("direction")["divergence"]
    for control in ("random", "other-patches"):
        assert (controls[control] > 0).all()


def _sample(run: RunFolder) -> list[dict[str, Any]]:
    return list(json.loads(run.read_plan_file("sample.json"))["images"])


def test_shards_their_order_and_places_change_no_byte(
    job: InterveneJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = dataclasses.replace(
        job, layers="2", lenses="latent,logit", doses="1,30", erase="dog,sky", at="truth", write="dog"
    )
    apart = dataclasses.replace(few, out=tmp_path / "apart", images_per_shard=1)
    whole, parts = complete(few), complete(apart, (2, 0))
    for read in (read_edits, read_answers):
        assert read(whole).equals(read(parts))
    edits = read_edits(whole).to_pandas()
    assert set(edits["edit"]) == {"erase", "write"}
    assert set(edits["image_id"]) == {0}  # only there is a dog
    assert (edits["tokens"] == 4).all()
    intervene._finish(whole)
    shown = capsys.readouterr()
    assert "--erase sky: nothing was done; " in shown.out + shown.err
    written = pd.read_csv(whole.path / "edits-summary.csv")
    np.testing.assert_allclose(written["divergence"], summarise(edits)["divergence"], rtol=1e-5, atol=1e-6)
    box = dataclasses.replace(few, out=tmp_path / "box", at="0,0,16,16", erase="dog")  # where it is
    of_box = read_edits(complete(box)).to_pandas()
    pd.testing.assert_frame_equal(of_box[of_box["image_id"] == 0], edits)
    assert set(of_box["image_id"]) == set(range(IMAGES))
    _require_shown(apart.out, edits)


def _require_shown(run: Path, edits: pd.DataFrame) -> None:
    """The report has a section, and the viewer a page with every answer."""
    sources = read_sources([run])
    section = word_edits_section(sources)
    assert section is not None
    pd.testing.assert_frame_equal(section.tables[0].frame.drop(columns="model"), summarise(edits))
    assert section.plots
    for plot in section.plots:
        assert_legible(plot)
    answers = read_answers(RunFolder.open(run)).to_pandas()
    page = answers_page("a <model>", sources.analyses[0].interventions, {0: ("<i>.png", None)})
    assert page is not None
    assert "<i>" not in page
    assert "&lt;i&gt;.png" in page
    assert all(escape(text) in page for text in answers["text"])
    assert answers_page("model", sources.analyses[0].interventions, {2: ("2.png", None)}) is None


def test_summaries_count_who_lost_or_gained_the_word(tmp_path: Path) -> None:
    said = [(True, False), (True, True), (False, False), (True, False)]
    edits = pd.DataFrame(said, columns=["said_before", "said"]).assign(
        image_id=[0, 0, 1, 1], edit="erase", layer=2, lens="logit", direction="word", dose=1.0
    )
    edits = edits.assign(divergence=[1.0, 2, 3, 6], log_likelihood=-1.0, word_probability=[-0.1, -0.1, 0, -0.2])
    found = summarise(edits).set_index("layer")
    for layer in (2, "all"):
        assert found.loc[layer, ["turned", "could_turn", "divergence", "passes"]].tolist() == [2 / 3, 3, 3.0, 4]
        assert found.loc[layer, "turned_low"] < 2 / 3 < found.loc[layer, "turned_high"] <= 1
    gained = summarise(edits.assign(edit="write", said=~edits["said"])).set_index("layer")
    assert gained.loc[2, ["turned", "could_turn"]].tolist() == [1, 1]


def test_wrong_requests_are_one_line(job: InterveneJob, tmp_path: Path) -> None:
    for changed, message in (
        ({"erase": "dog,Dog"}, "--erase dog,Dog: words 'dog', 'Dog': expected each once"),
        ({"layers": "4"}, "--layers: the output of the last block is no input of a block"),
        ({"prompt": "<image> the"}, "--prompt"),
        ({"erase": "unknown"}, "'unknown': the tokenizer of the model has no tokens for this word"),
        ({"at": "there"}, "--at: no 'there'; expected one of said, truth, sampled, all, truth:WORD or a box"),
        ({"at": "1,2,1,4"}, "--at 1,2,1,4: expected LEFT,TOP,RIGHT,BOTTOM with LEFT < RIGHT"),
        ({"at": "truth", "truth": ""}, "--at truth: expected --truth with it"),
        ({"at": "all", "erase": "", "write": "", "substitutes": "zero"}, "--at all: is for --erase or --write"),
        ({"erase": "", "write": ""}, "--substitutes none: nothing is left to do"),
        ({"doses": "1,1"}, "--doses: found '1,1', expected numbers that differ"),
        ({"doses": "much"}, "--doses: found 'much', expected numbers that differ"),
    ):
        with pytest.raises(InputError, match=message):
            complete(dataclasses.replace(job, out=tmp_path / "other", **changed))
