"""The figures on words, states, overlap, comparison and speed are as legible as those on rates."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from lenscore.reports.comparison import comparison_section
from lenscore.reports.overlap import overlap_section
from lenscore.reports.speeds import speed_section
from lenscore.reports.state_drift import states_section
from lenscore.reports.training_curves import training_section
from lenscore.reports.verdict_types import verdict_types_section
from lenscore.reports.word_properties import words_section
from lenscore.statistics.published_rates import Published
from lenscore.statistics.sources import read_sources
from storage_layouts.files import write_json
from storage_layouts.runs import Receipt, RunFolder
from storage_layouts.verdicts import Verdict
from tests import synthetic_run
from tests.lenscore.reports.test_legible import LONG, assert_legible

SECTIONS = (words_section, verdict_types_section, states_section, overlap_section, comparison_section)
SECTIONS += (training_section, speed_section)


def judged(folder: Path, model: str) -> Path:
    """A run with everything that a figure can show, and somebody's verdicts on it."""
    results = synthetic_run.make_results(folder, images=2, unreadable=False, model=model)
    results = synthetic_run.with_cosines(synthetic_run.with_norms(results, {(0, 0, 1, 1)}))
    run = results.run
    run.attempt("w", device="cuda:0").finished(run.require_plan().shard(0), 2.0, 2)
    reply = json.dumps({"reasoning": "", "concrete_words": ["cat"], "abstract_words": [], "global_words": []})
    asked = [(image, layer, lens) for image in range(2) for layer in results.layers for lens in results.lenses]
    said = [
        Verdict(image, 0, 0, 0, layer, lens, "", ("cat",), "yes" if image else "no", reply=reply, judge="j")
        for image, layer, lens in asked
    ]
    return synthetic_run.judge_run(folder / "judge", results, said)


def trained(folder: Path) -> Path:
    run = RunFolder.create(folder, "train", {"steps": 60}, {})
    run.write_plan(60, 60, {}, {})
    names = ("loss", "gradient_norm", "learning_rate")
    columns = {"step": list(range(60)), "tokens": [1] * 60} | {name: [2.0] * 60 for name in names}
    run.write_receipt(Receipt(0, 60, {"losses/0.json": write_json(folder / "losses/0.json", columns)}, {}))
    return folder


@pytest.mark.parametrize(("models", "layers", "lenses"), [(1, 1, 1), (2, 28, 4), (5, 9, 3)])
def test_no_text_is_cut_off_or_tiny(
    models: int, layers: int, lenses: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic_run, "LAYERS", tuple(range(layers)))
    monkeypatch.setattr(synthetic_run, "LENSES", ("latent", "logit", "embedding", "a lens of some length")[:lenses])
    monkeypatch.setattr(synthetic_run, "GRID", 2)
    runs = [judged(tmp_path / str(i), f"{LONG}-{i}") for i in range(models)]
    runs += [trained(tmp_path / f"train-{LONG.replace('/', '-')}-{i}") for i in range(models)]
    rates = [
        {"model": "M", "lens": "latent", "layer": layer, "top_k": 3, "rate": 0.5, "n": 100, "source": "s"}
        for layer in range(layers)
    ]
    ours = {"M": {"ours": [f"{LONG}-{i}" for i in range(models)]}}
    published = Published.model_validate({"title": "t", "sources": {"s": "s"}, "models": ours, "rates": rates})
    sources = dataclasses.replace(read_sources(runs), published=published)
    made = [section for make in SECTIONS if (section := make(sources)) is not None]
    assert len(made) == len(SECTIONS) - (models == lenses == 1)  # a single lens overlaps with nothing
    plots = [plot for section in made for plot in section.plots]
    assert len({plot.name for plot in plots}) == len(plots)
    for plot in plots:
        assert_legible(plot)
