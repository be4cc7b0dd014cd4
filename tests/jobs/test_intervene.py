"""The intervene stage on the tiny LLaVA, against whole passes with a hook."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import t as students
from transformers import AutoTokenizer

import lenscore
from jobs.analyze_job import AnalyzeJob
from jobs.extract_job import ExtractJob
from jobs.intervene_job import InterveneJob
from launch import intervene
from lenscore.images.preprocessing import BatchReader
from lenscore.models.decoder import decoder_of, require_room
from lenscore.models.greedy_answer import followed_by, greedy_answer
from lenscore.models.loading import Vlm
from lenscore.reports.substitutions import substitutions_section
from lenscore.statistics.faithfulness import compare_controls, summarise
from lenscore.statistics.sources import read_sources
from lenscore.viewer.readings import RunReadings
from storage_layouts.errors import InputError
from storage_layouts.interventions import read_effects
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from tests.conftest import WORDS
from tests.jobs.test_tune import complete
from tests.lenscore.reports.test_legible import assert_legible

IMAGES, LAYERS, ANSWER = 3, (0, 2), 4
CHOSEN = {"other-patch": "nearest", "other-deviation": "deviation", "random": "nearest"}
"""Controls that a hash chooses, and what they are controls of."""


@pytest.fixture(scope="module")
def analyzed(tiny_vlm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("intervene")
    rng = np.random.default_rng(3)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(" ".join(rng.choice(WORDS, 6)) for _ in range(40)))
    complete(ExtractJob(str(tiny_vlm_folder), (corpus,), folder / "store.zarr", layers="1,3"))
    (folder / "images").mkdir()
    for number in range(IMAGES):
        pixels = rng.integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    (folder / "boxes.csv").write_text("image,word,left,top,right,bottom\n0.png,dog,0,0,16,16\n1.png,cat,8,0,32,32\n")
    settings: dict[str, Any] = {"layers": "0,2,final", "self_test": False, "prompt": "the cat"}
    results = folder / "results"
    complete(AnalyzeJob(str(tiny_vlm_folder), folder / "images", results, folder / "store.zarr", **settings))
    return folder


@pytest.fixture
def job(analyzed: Path, tmp_path: Path) -> InterveneJob:
    return InterveneJob(
        analyzed / "results", tmp_path / "run", patches=2, truth=str(analyzed / "boxes.csv"), max_new_tokens=ANSWER
    )


def effects_of(job: InterveneJob, order: tuple[int, ...] = ()) -> pd.DataFrame:
    return read_effects(complete(job, order)).to_pandas()


def references(vlm: Vlm, analyzed: Path) -> dict[str, Any]:
    """For each lens the vector and the token of a candidate (id, contextual layer), in float64."""
    index = lenscore.ContextualIndex.from_store(analyzed / "store.zarr")
    rows = {layer: torch.cat(list(index.blocks(layer))).double() for layer in index.available_layers}
    words = {layer: index.words(layer).rows["token_id"].to_pylist() for layer in rows}
    embeddings, head = (
        part.weight.detach().double() for part in (vlm.model.get_input_embeddings(), vlm.model.get_output_embeddings())
    )
    return {
        "latent": lambda one, layer: (rows[layer][one], words[layer][one]),
        "logit": lambda one, layer: (head[one], one),
        "embedding": lambda one, layer: (embeddings[one], one),
    }


class Plain:
    """Changed passes of one image as they are usually written: the whole model in float64, with a hook."""

    def __init__(self, vlm: Vlm, path: Path, prompt: str = "the cat") -> None:
        self.model = vlm.model.double()
        batch = BatchReader(vlm, prompt, 1).batch_of({0: Image.open(path).convert("RGB")})
        inputs = batch.on_device(vlm)
        self.answer = greedy_answer(self.model, inputs, ANSWER)
        self.inputs = followed_by(self.model, inputs, self.answer)
        self.positions = [patch.position for patch in batch.geometries[0].patches]
        self.states = {layer: self.run(layer, None, None)[1] for layer in LAYERS}
        self.old = self.run(0, None, None)[0]

    @torch.no_grad()
    def run(self, layer: int, tokens: Any, states: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Log probabilities where the answer is predicted, and the states of the visual tokens at a layer."""
        seen = []

        def replace(_module: Any, args: Any, kwargs: Any) -> Any:
            given = (args[0] if args else kwargs["hidden_states"]).clone()
            seen.append(given[0, self.positions])
            if tokens is not None:
                given[0, [self.positions[token] for token in tokens]] = states
            return ((given, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": given})

        hook = decoder_of(self.model).layers[layer].register_forward_pre_hook(replace, with_kwargs=True)
        logits = self.model(**self.inputs).logits[0, -len(self.answer) - 1 : -1]
        hook.remove()
        return logits.log_softmax(dim=1), seen[0]

    def effect(self, layer: int, tokens: Any, states: torch.Tensor, word: int) -> list[float]:
        new, places = self.run(layer, tokens, states)[0], range(len(self.answer))
        divergences = (self.old.exp() * (self.old - new)).sum(dim=1)
        likelihood = (new - self.old)[places, self.answer].sum()
        change = (new[:, word].exp() - self.old[:, word].exp()).mean() if word >= 0 else np.nan
        return [float(value) for value in (divergences[0], divergences.mean(), likelihood, change)]


def substitute(
    name: str,
    candidates: list[list[tuple[torch.Tensor, int]]],
    every: list[list[tuple[torch.Tensor, int]]],
    embeddings: torch.Tensor,
    states: torch.Tensor,
    own: Any,
) -> torch.Tensor:
    """What replaces states `own`, some of those of the image.

    `candidates` are a lens's vectors and tokens for each of them, and `every` for all visual tokens.
    """
    if name == "mean-state":
        return states.mean(0).expand(own.shape)
    if name in ("zero", "unchanged"):
        return torch.zeros_like(own) if name == "zero" else own
    if name == "deviation":
        units = torch.stack([best[0][0] / best[0][0].norm() for best in every])
        mean = states.mean(0)
        apart = torch.stack([best[0][0] / best[0][0].norm() for best in candidates]) - units.mean(0)
        return mean + apart / apart.norm(dim=1, keepdim=True) * (own - mean).norm(dim=1, keepdim=True)
    if name == "nearest":
        made = torch.stack([best[0][0] for best in candidates])
    elif name == "word":
        made = torch.stack([embeddings[best[0][1]] for best in candidates])
    else:
        assert name == "nearest-k"
        made = torch.stack([torch.stack([vector / vector.norm() for vector, _ in best]).mean(0) for best in candidates])
    return made / made.norm(dim=1, keepdim=True) * own.norm(dim=1, keepdim=True)


def test_effects_are_those_of_whole_passes(job: InterveneJob, analyzed: Path, tiny_vlm_folder: Path) -> None:
    found = effects_of(job)
    of_target = len(LAYERS) * (3 * 7 + 3)  # three lenses with seven substitutes, and three without a lens
    assert job.extra_work() == {"passes": f"{3 * of_target:,} changed ones an image, and {of_target} for each object"}
    assert len(found) == RunFolder.open(job.out).require_plan().facts["passes"] == (IMAGES * 3 + 2) * of_target
    tops = LensResults.open(job.results).results().to_pandas()
    tops = tops.set_index(["image_id", "row", "col", "layer", "lens"])[["ids", "contextual_layers"]]
    vlm = lenscore.load_vlm(tiny_vlm_folder, "cpu", torch.float32)
    vectors = references(vlm, analyzed)
    embeddings = vlm.model.get_input_embeddings().weight.detach().double()
    objects = {0: [0, 1, 4, 5], 1: [token for token in range(16) if token % 4]}
    checked = 0
    for image in range(IMAGES):
        plain = Plain(vlm, analyzed / "images" / f"{image}.png")
        targets = {"object": objects.get(image), "all": list(range(16))}
        for line in found[found["image_id"] == image].to_dict("records"):
            if line["substitute"] in CHOSEN:
                continue  # a hash chooses them; see below
            tokens = targets.get(line["target"], [line["number"]])
            states, every = plain.states[line["layer"]], []
            for token in range(16) if line["lens"] else ():
                ids, layers = tops.loc[(image, *divmod(token, 4), line["layer"], line["lens"])]
                layers = [None] * len(ids) if layers is None else layers
                every.append([vectors[line["lens"]](*one) for one in zip(ids, layers, strict=True)])
            candidates = [every[token] for token in tokens] if every else []
            word = candidates[0][0][1] if candidates else -1
            made = substitute(line["substitute"], candidates, every, embeddings, states, states[tokens])
            expected = plain.effect(line["layer"], tokens, made, word)
            names = ("next_divergence", "divergence", "log_likelihood", "word_probability")
            np.testing.assert_allclose([line[name] for name in names], expected, rtol=2e-3, atol=2e-5)
            assert (line["word"], line["tokens"]) == (word, len(tokens))
            checked += 1
    # patches, objects and all, at two layers: four substitutes of three lenses, and three without a lens
    assert checked == (IMAGES * 3 + 2) * len(LAYERS) * (3 * 4 + 3)
    patches = found[found["target"] == "patch"].set_index("substitute")["divergence"]
    for control, said in CHOSEN.items():
        assert (patches[control] > 0).all()
        assert not np.isclose(patches[control], patches[said], rtol=1e-3).all()


def test_shards_their_order_and_workers_change_no_byte(job: InterveneJob, tmp_path: Path) -> None:
    whole = effects_of(job)
    apart = dataclasses.replace(job, out=tmp_path / "apart", images_per_shard=1)
    pd.testing.assert_frame_equal(whole, effects_of(apart, (2, 0)))
    flags = ["--results", str(job.results), "--truth", job.truth, "--patches", "2", "--max-new-tokens", str(ANSWER)]
    again = tmp_path / "again"
    assert intervene.main([*flags, "--out", str(again), "--images-per-shard", "1", "--workers", "2"]) == 0
    parts = [sorted((folder / "effects").iterdir()) for folder in (again, apart.out)]
    assert [path.read_bytes() for path in parts[0]] == [path.read_bytes() for path in parts[1]]
    written = pd.read_csv(again / "summary.csv")
    np.testing.assert_allclose(written["recovered"], summarise(whole)["recovered"], rtol=1e-6, atol=1e-6)


def test_recovered_shares_are_those_of_the_mean_state() -> None:
    numbers = {"image_id": [0, 0, 1, 1] * 2, "target": "patch", "layer": 3, "number": [0, 1, 0, 1] * 2}
    lens = {"lens": ["latent"] * 4 + [""] * 4, "substitute": ["nearest"] * 4 + ["mean-state"] * 4}
    effects = pd.DataFrame(numbers | lens | {"divergence": [1.0, 2, 3, 2, 4, 4, 6, 2]})
    effects = effects.assign(next_divergence=0.0, log_likelihood=0.0, word_probability=np.nan)
    found = summarise(effects).set_index(["layer", "substitute"])
    assert found.loc[(3, "nearest"), "recovered"] == pytest.approx(1 - 8 / 16)
    assert found.loc[("all", "nearest"), "divergence"] == 2
    low, high = found.loc[(3, "nearest"), ["recovered_low", "recovered_high"]]
    assert low < 0.5 < high
    assert found.loc[(3, "mean-state"), "recovered"] == 0
    assert summarise(effects[:4])["recovered"].isna().all()


def test_controls_are_compared_on_the_same_targets() -> None:
    """Two images, two patches; the control of one lens must not be compared with what another says."""
    of_lens = {"image_id": [0, 0, 1, 1], "target": "patch", "layer": 3, "number": [0, 1, 0, 1]}
    parts = [
        pd.DataFrame(of_lens | {"lens": lens, "substitute": name, "divergence": values})
        for lens, name, values in (
            ("latent", "nearest", [1.0, 2, 3, 2]),
            ("logit", "nearest", [5.0, 5, 5, 5]),
            ("latent", "other-patch", [3.0, 2, 7, 8]),
            ("logit", "other-patch", [5.0, 5, 4, 5]),
            ("", "mean-state", [2.0, 2, 2, 2]),
        )
    ]
    found = compare_controls(pd.concat(parts).sample(frac=1, random_state=0)).set_index(["layer", "lens", "control"])
    assert found.loc[(3, "latent", "other-patch"), "more"] == 3
    assert found.loc[("all", "logit", "other-patch"), "more"] == -0.25
    assert found.loc[(3, "latent", "mean-state"), "more"] == 0
    low, high = found.loc[(3, "latent", "other-patch"), ["low", "high"]]
    reach = students.ppf(0.975, 1) * np.std([1, 5], ddof=1) / np.sqrt(2)  # means of the two images
    assert (low, high) == pytest.approx((3 - reach, 3 + reach))
    assert (found["images"] == 2).all()


def test_a_report_shows_the_effects(job: InterveneJob, analyzed: Path, tmp_path: Path) -> None:
    effects = effects_of(job)
    other = dataclasses.replace(job, out=tmp_path / "other", substitutes="mean-state", truth="")
    complete(other)
    sources = read_sources([job.out])
    assert [source.results.path for source in sources.analyses] == [analyzed / "results"]
    section = substitutions_section(sources)
    tables = {table.name: table.frame for table in section.tables}
    pd.testing.assert_frame_equal(tables["substitutions"].drop(columns="model"), summarise(effects))
    assert {plot.name for plot in section.plots} == {
        f"{what}-{target}" for what in ("substitutions", "deviations") for target in ("all", "object", "patch")
    }
    for plot in section.plots:
        assert_legible(plot)
    assert len(section.findings) == 2
    assert all("the place of all visual tokens" in finding for finding in section.findings)
    assert substitutions_section(read_sources([analyzed / "results"])) is None
    two = read_sources([job.out, other.out])
    assert substitutions_section(two).tables[0].frame["model"].nunique() == 2
    patches = effects[effects["target"] == "patch"].set_index(["image_id", "layer", "number", "substitute", "lens"])
    readings = RunReadings(two.analyses[0].results, interventions=two.analyses[0].interventions)
    seen = 0
    for image_id, reading in readings.readings(range(IMAGES)):
        for one in (one for one in reading.maps if one.name.startswith("1-")):
            for layer, patch in np.argwhere(~np.isnan(one.values)):
                line = patches.loc[(image_id, reading.layers[layer], patch, one.name.removeprefix("1-"), one.lens)]
                assert one.values[layer, patch] == line["divergence"]
                seen += 1
        assert [one.name for one in reading.maps if one.name.startswith("2-")] == ["2-mean-state"]
    assert seen == IMAGES * 2 * len(LAYERS) * (3 * 3 + 2)


def test_wrong_requests_are_one_line(job: InterveneJob, tmp_path: Path) -> None:
    for changed, message in (
        ({"layers": "1"}, "--layers: .* has no layer '1'; expected some of 0, 2"),
        ({"lenses": "tuned"}, "--lenses: no 'tuned' in .*; expected some of latent, logit, embedding"),
        ({"substitutes": "nothing"}, "--substitutes: no 'nothing'; expected all, none, or some of nearest"),
        ({"nearest": 6}, "--nearest 6: .* keeps 5 candidates"),
        ({"answer": "caption"}, "--answer caption: .* has no captions"),
        ({"cover": 0.0}, "--cover: found 0.0"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(job, out=tmp_path / "other", **changed).open_run()
    assert not (tmp_path / "other").exists()


def test_a_model_that_is_gone_is_that_of_the_results(job: InterveneJob) -> None:
    job._results.run.config["model"] = "/gone/model"
    with pytest.raises(InputError, match=f"--results {job.results}: its model /gone/model: no such model folder"):
        job.open_run()


def test_only_a_limit_that_is_known_bounds_the_tokens() -> None:
    require_room(100_000, SimpleNamespace(), "a.png: 100,000 tokens", "shorten it")
    require_room(512, SimpleNamespace(max_position_embeddings=512), "a.png: 512 tokens", "shorten it")
    with pytest.raises(InputError, match=r"a\.png: 513 tokens; the model reads at most 512; shorten it"):
        require_room(513, SimpleNamespace(max_position_embeddings=512), "a.png: 513 tokens", "shorten it")


def test_answers_without_text_are_counted(
    job: InterveneJob, tiny_vlm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = AutoTokenizer.from_pretrained(tiny_vlm_folder).all_special_ids[:1]
    monkeypatch.setattr("jobs.intervene_worker.greedy_answer", lambda *_: torch.tensor(ends))
    run = complete(dataclasses.replace(job, substitutes="zero", images=2))
    assert sum(receipt.facts["empty_answers"] for receipt in run.receipts()) == 2
