"""Headline, leads, grid and ablations beside a recomputation from the verdicts' files."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from lenscore.reports.parts.table_formats import csv_bytes
from lenscore.reports.rates import rates_section
from lenscore.reports.text import report_text
from lenscore.statistics.intervals import Rate
from lenscore.statistics.sources import read_sources
from tests.lenscore.reports.recomputed import PATCH, answers, raw_verdicts, wilson_over_images

BASE = {"connector": "swiglu", "seed": 6198, "vit_layers": [-2, -9]}
MODELS = {  # a 2 x 2 grid without one cell, an ablation, and a model of which nothing is known
    "/runs/olmo-clip/model": {"llm": "a/olmo", "vision": "v/clip", **BASE},
    "/runs/olmo-dino/model": {"llm": "a/olmo", "vision": "v/dino", **BASE},
    "/runs/qwen-clip/model": {"llm": "b/qwen", "vision": "v/clip", **BASE},
    "/runs/olmo-clip-linear/model": {"llm": "a/olmo", "vision": "v/clip", **BASE, "connector": "linear"},
    "we/ird<i> $x$|_": None,
}


class Written:
    """The section on rates as it stands in the files, and the text of the report."""

    def __init__(self, runs: dict[str, Path]) -> None:
        sources = read_sources(list(runs.values()))
        section = rates_section(sources)
        assert section is not None
        self.tables = {table.name: csv_bytes(table.frame) for table in section.tables}
        self.figures = {plot.name: csv_bytes(plot.data) for plot in section.plots}
        self.text = report_text(sources, [section], [])

    def table(self, name: str, **options: object) -> pd.DataFrame:
        return pd.read_csv(BytesIO(self.tables[name]), **options)

    def figure(self, name: str) -> pd.DataFrame:
        return pd.read_csv(BytesIO(self.figures[name]))


@pytest.fixture(scope="module")
def several(tmp_path_factory, make_results, judge) -> tuple[dict[str, Path], Written]:
    """The judge runs by model, and what the report says of them."""
    folder = tmp_path_factory.mktemp("several")
    runs = {}
    for luck, (model, made_of) in enumerate(MODELS.items()):
        results = make_results(folder / str(luck), images=14, unreadable=False, model=model, made_of=made_of, luck=luck)
        runs[model] = judge(results, folder / str(luck) / "judge", patches=40)
    return runs, Written(runs)


def test_headline_is_the_mean_of_layers_and_leaves_ablations_out_of_the_mean_of_models(several) -> None:
    runs, files = several
    told = files.table("headline")
    own = told[told["control"].isna()].set_index(["model", "lens"])
    labels = ["olmo-clip", "olmo-dino", "qwen-clip", "we/ird<i> $x$|_"]
    assert list(dict.fromkeys(told["model"])) == [*labels, "mean of the models"]
    paths = dict(
        zip(["olmo-clip", "olmo-dino", "qwen-clip", "olmo-clip-linear", labels[3]], runs.values(), strict=True)
    )
    for lens in ("latent", "logit", "embedding"):
        means = {}
        for label in labels:
            patches = answers(paths[label])[lens].mean(axis=1)  # of its layers
            line = own.loc[(label, lens)]
            means[label] = patches.mean()
            assert line["rate"] == pytest.approx(patches.mean(), abs=1e-6)
            assert (line["patches"], line["images"]) == (40, patches.reset_index()["image_id"].nunique())
            assert line["answers"] == 120
            assert (line["low"], line["high"]) == pytest.approx(wilson_over_images(patches, 120), abs=2e-6)
        assert own.loc[("mean of the models", lens), "rate"] == pytest.approx(np.mean(list(means.values())), abs=1e-6)
        assert own.loc[("mean of the models", lens), "patches"] == 160
    control = told[told["control"] == "other-patch"].set_index(["model", "lens"])
    others = answers(paths["qwen-clip"], "other-patch")["logit"].to_numpy().mean()
    assert control.loc[("qwen-clip", "logit"), "rate"] == pytest.approx(others, abs=1e-6)


def test_leads_are_differences_on_the_same_patches(several) -> None:
    runs, files = several
    leads = files.table("leads", dtype={"layer": str}).set_index(["model", "lens", "other", "layer"])
    found = answers(runs["/runs/qwen-clip/model"])
    for layer in (0, 2, 5):
        line = leads.loc[("qwen-clip", "latent", "logit", str(layer))]
        by_patch = found["latent", layer] - found["logit", layer]
        assert line["lead"] == pytest.approx(by_patch.mean(), abs=1e-6)
        assert line["low"] < line["lead"] < line["high"]
        assert line["patches"] == 40
    mean = leads.loc[("qwen-clip", "latent", "embedding", "mean"), "lead"]
    assert mean == pytest.approx((found["latent"] - found["embedding"]).to_numpy().mean(), abs=1e-6)
    best = files.table("lead", dtype={"layer": str})
    for line in best[best["model"] == "olmo-dino"].itertuples():
        found = answers(runs["/runs/olmo-dino/model"])
        rates = {
            lens: (found[lens] if line.layer == "mean" else found[lens][[int(line.layer)]]).to_numpy().mean()
            for lens in ("logit", "embedding")
        }
        assert rates[line.other] == max(rates.values())


def test_an_ablation_is_compared_with_its_cell_image_by_image(several) -> None:
    runs, files = several
    told = files.table("ablations").set_index("lens")
    assert list(told["change"].unique()) == ["connector linear"]
    base, changed = (answers(runs[f"/runs/olmo-clip{name}/model"]) for name in ("", "-linear"))
    for lens in ("latent", "logit", "embedding"):
        gap = changed[lens].mean(axis=1) - base[lens].mean(axis=1)  # the same images, and here the same patches
        gaps = [*(part.to_numpy() for _, part in gap.groupby("image_id")), np.array([1.0]), np.array([-1.0])]
        middle = np.concatenate(gaps).mean()  # Bonett and Price: one patch more for each side
        pulls = np.array([(one - middle).sum() / 42 for one in gaps])
        reach = t.ppf(0.975, len(pulls) - 1) * np.sqrt(len(pulls) / (len(pulls) - 1) * (pulls**2).sum())
        assert told.loc[lens, "difference"] == pytest.approx(gap.mean(), abs=1e-6)
        found = told.loc[lens, ["difference_low", "difference_high"]]
        assert list(found) == pytest.approx([middle - reach, middle + reach], abs=1e-5)


def test_figures_hold_the_rates_of_what_they_show(several) -> None:
    _, files = several
    summary = files.table("summary")
    shown = {
        "rates-grid": ["olmo-clip", "olmo-dino", "qwen-clip"],
        "rates-ablations": ["olmo-clip", "olmo-clip-linear"],
    }
    shown |= {"rates-models": ["we/ird<i> $x$|_"]}
    for name, models in shown.items():
        drawn = files.figure(name)
        own = drawn[drawn["control"].isna()]
        assert list(dict.fromkeys(own["model"])) == models
        expected = summary.set_index(["model", "lens", "layer"])["rate"].loc[models]
        pd.testing.assert_series_equal(own.set_index(["model", "lens", "layer"])["rate"], expected)
        assert drawn["control"].dropna().nunique() == 2
    text = files.text
    assert "figures/rates-grid.png" in text
    assert text.index("## Findings") < text.index("## Rates") < text.index("## What is missing")
    assert "Mean of 4 models" in text
    assert "<" not in text


def test_several_patches_of_one_image_widen_the_interval_of_a_layer(several) -> None:
    runs, files = several
    summary = files.table("summary").set_index(["model", "lens", "layer"])
    found = answers(runs["/runs/olmo-clip/model"])
    wider = 0
    for lens, layer in found.columns:
        line, yes = summary.loc[("olmo-clip", lens, layer)], found[lens, layer]
        assert (line["low"], line["high"]) == pytest.approx(wilson_over_images(yes, 40), abs=2e-6)
        naive = Rate.of(int(yes.sum()), 40)
        wider += line["high"] - line["low"] > 1.1 * (naive.high - naive.low)
    assert wider
    assert raw_verdicts(runs["/runs/olmo-clip/model"]).groupby(PATCH).ngroups == 40
