"""Blocked attention and attention maps of the intervene stage on the tiny LLaVA, against passes of transformers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import rankdata

import lenscore
from jobs.intervene_job import InterveneJob
from jobs.intervene_worker import SAMPLE
from launch import intervene
from lenscore.reports.blocked_attention import knockouts_section
from lenscore.reports.substitutions import substitutions_section
from lenscore.statistics.attention_localisation import ObjectPatches, area_under_curve, localise
from lenscore.statistics.knockouts import summarise_knockouts
from lenscore.statistics.sources import read_sources
from storage_layouts.errors import InputError
from storage_layouts.interventions import read_attention, read_effects, read_knockouts
from storage_layouts.runs import RunFolder
from tests.jobs.test_intervene import ANSWER, IMAGES, LAYERS, Plain, analyzed, substitute
from tests.jobs.test_tune import complete
from tests.lenscore.models.test_recorded_pass import blocked_softmax
from tests.lenscore.reports.test_legible import assert_legible

__all__ = ["analyzed"]  # a fixture

OBJECTS = {0: [0, 1, 4, 5], 1: [token for token in range(16) if token % 4]}
AROUND = {0: [2, 6, 8, 9, 10], 1: [0, 4, 8, 12]}
BORDER = [token for token in range(16) if token not in (5, 6, 9, 10)]
DEPTH = 4
NO_KNOCKOUT = {"knockout": "none", "knockout_step": 1}


@pytest.fixture
def job(analyzed: Path, tmp_path: Path) -> InterveneJob:
    return InterveneJob(
        analyzed / "results",
        tmp_path / "run",
        truth=str(analyzed / "boxes.csv"),
        max_new_tokens=ANSWER,
        substitutes="none",
        targets="objects,surroundings,border,background,all",
        knockout="2,all",
        knockout_step=2,
        attention=2,
    )


def tokens_of(run: RunFolder) -> dict[tuple[int, str], list[int]]:
    """The tokens of each target of the sample, by image and kind."""
    found = {}
    for image in json.loads(run.read_plan_file(SAMPLE))["images"]:
        named = [("object", one["patches"]) for one in image["objects"]]
        for kind, patches in [*named, *((one["target"], one["patches"]) for one in image["others"])]:
            found[image["image_id"], kind] = [4 * row + col for _view, row, col in patches]
        found[image["image_id"], "all"] = list(range(16))
    return found


def test_targets_and_blocked_attention_are_those_of_whole_passes(
    job: InterveneJob, analyzed: Path, tiny_vlm_folder: Path
) -> None:
    run = complete(job)
    targets = tokens_of(run)
    for image in range(IMAGES):
        for kind, expected in (("object", OBJECTS), ("surrounding", AROUND)):
            assert targets.get((image, kind)) == expected.get(image)
        assert targets[image, "border"] == BORDER
    # Elsewhere the background has fewer patches than the target.
    controls = {key: tokens for key, tokens in targets.items() if "background" in key[1]}
    assert {key: len(tokens) for key, tokens in controls.items()} == {
        (0, "object-background"): 4,
        (0, "surrounding-background"): 5,
    }
    assert not set(controls[0, "object-background"]) & set(OBJECTS[0])
    assert not set(controls[0, "surrounding-background"]) & {*OBJECTS[0], *AROUND[0]}

    lines = read_knockouts(run).to_pandas()
    windows = [(0, 2), (2, 2), (0, DEPTH)]
    assert len(lines) == len(targets) * len(windows) * 2 == run.require_plan().facts["passes"]
    vlm = lenscore.load_vlm(tiny_vlm_folder, "cpu", torch.float32)
    for image in range(IMAGES):
        plain = Plain(vlm, analyzed / "images" / f"{image}.png")
        length = plain.inputs["input_ids"].shape[1]
        for line in lines[lines["image_id"] == image].to_dict("records"):
            tokens = targets[image, line["target"]]
            keys = [plain.positions[token] for token in tokens]
            first = length - len(plain.answer) - 1 if line["from"] == "answer" else 0
            queries = [place for place in range(first, length) if place not in keys]
            layers = range(line["layer"], line["layer"] + line["layers"])
            with blocked_softmax(plain.model, layers, queries, keys):
                new = plain.run(0, None, None)[0]
            divergences = (plain.old.exp() * (plain.old - new)).sum(dim=1)
            likelihood = (new - plain.old)[range(len(plain.answer)), plain.answer].sum()
            expected = [float(value) for value in (divergences[0], divergences.mean(), likelihood)]
            found = [line[name] for name in ("next_divergence", "divergence", "log_likelihood")]
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5)
            assert line["tokens"] == len(tokens)
    assert (lines["divergence"] > 1e-4).mean() > 0.5


def test_the_last_visual_token_predicts_if_no_text_follows(
    job: InterveneJob, analyzed: Path, tiny_vlm_folder: Path
) -> None:
    """It attends to no other visual token then, but still to itself."""
    changed = {"prompt": "", "targets": "all", "truth": "", "knockout": "all", "knockout_from": "answer"}
    run = complete(dataclasses.replace(job, attention=0, images=1, **changed))
    (line,) = read_knockouts(run).to_pandas().to_dict("records")
    vlm = lenscore.load_vlm(tiny_vlm_folder, "cpu", torch.float32)
    plain = Plain(vlm, analyzed / "images" / f"{line['image_id']}.png", "")
    length = plain.inputs["input_ids"].shape[1]
    first = length - len(plain.answer) - 1
    assert plain.positions[-1] == first
    with blocked_softmax(plain.model, range(DEPTH), list(range(first, length)), plain.positions):
        new = plain.run(0, None, None)[0]
    divergences = (plain.old.exp() * (plain.old - new)).sum(dim=1)
    assert line["next_divergence"] == pytest.approx(float(divergences[0]), rel=2e-3)
    assert line["divergence"] == pytest.approx(float(divergences.mean()), rel=2e-3)


def test_targets_are_also_those_of_substitution(job: InterveneJob, analyzed: Path, tiny_vlm_folder: Path) -> None:
    run = complete(dataclasses.replace(job, substitutes="mean-state,zero", attention=0, images=1, **NO_KNOCKOUT))
    targets, lines = tokens_of(run), read_effects(run).to_pandas()
    assert len(lines) == run.require_plan().facts["passes"] == len(targets) * 2 * len(LAYERS)
    (image,) = lines["image_id"].unique()
    plain = Plain(lenscore.load_vlm(tiny_vlm_folder, "cpu", torch.float32), analyzed / "images" / f"{image}.png")
    for line in lines.to_dict("records"):
        tokens, states = targets[image, line["target"]], plain.states[line["layer"]]
        made = substitute(line["substitute"], [], [], states, states, states[tokens])
        expected = plain.effect(line["layer"], tokens, made, -1)[:3]
        found = [line[name] for name in ("next_divergence", "divergence", "log_likelihood")]
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5)


def test_attention_and_rollout_are_those_of_transformers(
    job: InterveneJob, analyzed: Path, tiny_vlm_folder: Path
) -> None:
    run = complete(dataclasses.replace(job, **NO_KNOCKOUT))
    assert not len(read_knockouts(run))
    assert not len(read_effects(run))
    lines = read_attention(run).to_pandas()
    assert set(lines["image_id"]) == {0, 1}
    vlm = lenscore.load_vlm(tiny_vlm_folder, "cpu", torch.float32)
    for image, of_image in lines.groupby("image_id"):
        plain = Plain(vlm, analyzed / "images" / f"{image}.png")
        plain.model.set_attn_implementation("eager")
        attentions = plain.model(**plain.inputs, output_attentions=True).attentions
        means = [one[0].double().mean(dim=0).detach().numpy() for one in attentions]
        rolled, rollouts = np.eye(len(means[0])), []
        for mean in means:
            rolled = (mean + np.eye(len(mean))) / (mean + np.eye(len(mean))).sum(axis=1, keepdims=True) @ rolled
            rollouts.append(rolled)
        assert len(of_image) == 2 * DEPTH * len(plain.answer)
        for line in of_image.to_dict("records"):
            place = len(means[0]) - len(plain.answer) - 1 + line["number"]
            matrix = {"attention": means, "rollout": rollouts}[line["kind"]][line["layer"]]
            np.testing.assert_allclose(line["weights"], matrix[place, plain.positions], rtol=1e-3, atol=1e-6)
            assert line["token"] == plain.answer[line["number"]]


def test_shards_their_order_and_workers_change_no_byte(job: InterveneJob, tmp_path: Path) -> None:
    apart = dataclasses.replace(job, out=tmp_path / "apart", images_per_shard=1)
    whole, parts = complete(job), complete(apart, (2, 0))
    for read in (read_knockouts, read_attention):
        pd.testing.assert_frame_equal(read(whole).to_pandas(), read(parts).to_pandas())
    flags = ["--results", str(job.results), "--truth", job.truth, "--max-new-tokens", str(ANSWER)]
    flags += ["--targets", "all,border,objects,surroundings,background", "--knockout", "2, all", "--knockout-step", "2"]
    again = tmp_path / "again"
    flags += ["--substitutes", "none", "--attention", "2", "--images-per-shard", "1", "--workers", "2"]
    assert intervene.main([*flags, "--out", str(again)]) == 0
    for folder in ("knockouts", "attention", "effects"):
        files = [sorted((run / folder).iterdir()) for run in (again, apart.out)]
        assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert RunFolder.open(again).run_id == RunFolder.open(apart.out).run_id
    assert not (again / "effects.csv").exists()
    summary = pd.read_csv(again / "knockout-summary.csv")
    expected = summarise_knockouts(read_knockouts(whole).to_pandas())
    for name in ("divergence", "more"):
        np.testing.assert_allclose(summary[name], expected[name], rtol=1e-4, atol=1e-5)
    localised = pd.read_csv(again / "attention-localisation.csv")
    assert len(localised[localised["tokens"] == "all"]) == 2 * DEPTH
    assert len(list(again.glob("attention-*.html"))) == 2

    section = knockouts_section(read_sources([again]))
    pd.testing.assert_frame_equal(section.tables[0].frame.drop(columns="model"), expected)
    assert {plot.name for plot in section.plots} == {"knockouts-answer-2", "knockouts-later-2"}
    for plot in section.plots:
        assert_legible(plot)
    assert "do not attend to the patches of an object in 4 layers" in section.findings[0]
    assert substitutions_section(read_sources([again])) is None


def test_effects_are_compared_with_the_background_of_the_same_image() -> None:
    lines = {"image_id": [0, 0, 1, 0, 1], "number": [0, 1, 0, 0, 0], "divergence": [3.0, 9, 5, 1, 2]}
    kinds = ["object"] * 3 + ["object-background"] * 2
    frame = pd.DataFrame(lines | {"target": kinds, "from": "answer", "layer": 2, "layers": 5})
    found = summarise_knockouts(frame.assign(log_likelihood=-1.0)).set_index(["target", "layer"])
    assert found.loc[("object", 2), "divergence"] == pytest.approx(17 / 3)
    assert found.loc[("object", "all"), "more"] == pytest.approx((2 + 3) / 2)  # object 1 has no control
    low, high = found.loc[("object", 2), ["more_low", "more_high"]]
    assert low < 2 < 3 < high
    assert np.isnan(found.loc[("object-background", 2), "more"])


def test_attention_on_an_object_is_compared_with_chance() -> None:
    rng = np.random.default_rng(0)
    weights = np.round(rng.random(12), 1)  # with ties
    on = np.arange(12) < 5
    pairs = [(one > other) + (one == other) / 2 for one in weights[on] for other in weights[~on]]
    assert area_under_curve(rankdata(weights), on) == pytest.approx(np.mean(pairs))

    lines = [
        {"image_id": 0, "kind": "attention", "layer": 1, "text": text, "weights": [0.6, 0.2, 0.1, 0.1, 9.0]}
        for text in (" Dog", "x")
    ]
    known = {0: [ObjectPatches(frozenset({"dog"}), np.array([True, False, False, False, True]))]}
    shown = {0: np.array([True] * 4 + [False])}  # the last one is padding
    found = localise(pd.DataFrame(lines), known, shown).set_index("tokens")
    for tokens, maps in (("all", 2), ("naming", 1)):
        numbers = found.loc[tokens, ["maps", "share", "patches", "ratio", "auc"]]
        assert numbers.tolist() == pytest.approx([maps, 0.6, 0.25, 2.4, 1])


def test_wrong_requests_are_one_line(job: InterveneJob, tmp_path: Path) -> None:
    for changed, message in (
        ({"targets": "object"}, "--targets: no 'object'; expected some of patches, objects"),
        ({"truth": ""}, "--targets objects: expected --truth"),
        ({"knockout": "0"}, "--knockout: found '0', expected numbers of layers, or all, or none"),
        ({"knockout_from": "question"}, "--knockout-from: no 'question'; expected some of answer, later"),
        ({"knockout_step": 0}, "--knockout-step: found 0"),
        ({"attention": -1}, "--attention: found -1"),
        ({"layers": "0"}, "--layers 0: is for substitutes and words; leave it out"),
        ({"knockout": "5"}, "--knockout 5: the model has 4 layers"),
        ({"doses": "3"}, "--doses 3: is for --erase or --write"),
        ({"knockout": "none", "knockout_from": "later"}, "--knockout-from and --knockout-step are for --knockout"),
        ({"targets": "patches,background"}, "--targets background: expected also some of border, objects, sinks, surr"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(job, out=tmp_path / "other", **changed).open_run()
