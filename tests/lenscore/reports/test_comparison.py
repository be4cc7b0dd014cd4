"""Published rates: the shipped table against what the paper says, ours beside them, and files that are wrong."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

from jobs.train_job import TrainJob
from launch.flags import parse
from launch.stages import command_of
from lenscore.reports.comparison import _draw, compare, comparison_section, is_ours, newcombe
from lenscore.reports.parts.table_formats import markdown
from lenscore.statistics.intervals import Rate
from lenscore.statistics.published_rates import PAPER, Published, read_published
from lenscore.statistics.sources import Sources, read_sources
from storage_layouts.errors import InputError

TABLE = {
    "title": "Somebody's <b>table</b>",
    "sources": {"t1": "Table 1"},
    "models": {"VLM": {"ours": ["made/vlm"]}, "Another": {}},
    "rates": [
        {"model": "VLM", "lens": "latent", "layer": 2, "top_k": 3, "rate": 0.25, "n": 200, "source": "t1"},
        {"model": "VLM", "lens": "latent", "layer": 5, "top_k": 3, "rate": 0.4242, "source": "t1", "note": "n?"},
        {"model": "VLM", "lens": "logit", "layer": None, "top_k": 3, "rate": 0.5, "n": None, "source": "t1"},
        {"model": "VLM", "lens": "logit", "layer": 0, "top_k": 5, "rate": 0.5, "n": 100, "source": "t1"},
        {"model": "VLM", "lens": "latent", "layer": 31, "top_k": 3, "rate": 0.5, "n": 100, "source": "t1"},
        {"model": "Another", "lens": "latent", "layer": 2, "top_k": 3, "rate": 0.5, "n": 100, "source": "t1"},
    ],
}


@pytest.fixture(scope="module")
def sources(judged) -> Sources:
    return dataclasses.replace(read_sources([judged[1]]), published=Published.model_validate(TABLE))


def test_newcombes_own_example() -> None:
    """56 of 70 against 48 of 80 (Statistics in Medicine 17, 1998, Table II, method 10): 0.0524 to 0.3339."""
    assert newcombe(Rate.of(56, 70), Rate.of(48, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe(Rate.of(48, 80), Rate.of(56, 70)) == pytest.approx((-0.3339, -0.0524), abs=5e-5)


def test_ours_beside_theirs_equal_a_recomputation(judged, sources: Sources) -> None:
    verdicts = pd.concat(pd.read_json(path, lines=True) for path in sorted((judged[1] / "verdicts").iterdir()))
    own = verdicts[verdicts["control"] == ""].assign(yes=verdicts["outcome"] == "yes")
    rates = own.groupby(["lens", "layer"])["yes"].mean()
    frame = compare(sources, sources.published)
    found = frame.set_index(["lens", frame["layer"].astype(object).where(frame["layer"].notna(), "mean")])
    assert sorted(map(str, found.index)) == sorted(
        ["('latent', 2)", "('latent', 5)", "('latent', 'mean')", "('logit', 'mean')"]
    )
    for layer, theirs in ((2, 0.25), (5, 0.4242)):
        line = found.loc[("latent", layer)]
        assert (line["rate"], line["n"]) == (pytest.approx(rates[("latent", layer)]), 60)
        assert line["difference"] == pytest.approx(rates[("latent", layer)] - theirs)
        assert line["difference_low"] < line["difference"] < line["difference_high"]
        assert (line["source"], line["judge"]) == ("Table 1", "truth")
    both, alone = found.loc[("latent", 2)], found.loc[("latent", 5)]
    assert (both["interval_of"], alone["interval_of"]) == ("both", "ours alone")
    assert alone["difference_low"] == pytest.approx(alone["low"] - 0.4242)
    # With the uncertainty of both the interval is wider than with ours alone.
    assert both["difference_high"] - both["difference_low"] > both["high"] - both["low"]
    mean = found.loc[("logit", "mean")]
    assert mean["rate"] == pytest.approx(np.mean([rates[("logit", layer)] for layer in (0, 2, 5)]))
    common = found.loc[("latent", "mean")]
    assert common["rate"] == pytest.approx(np.mean([rates[("latent", layer)] for layer in (2, 5)]))
    assert common["published_rate"] == pytest.approx((0.25 + 0.4242) / 2)
    assert common["note"] == "mean over the layers of both: 2, 5"


def test_a_model_with_published_means_alone_has_no_panel(sources: Sources) -> None:
    frame, figure = compare(sources, sources.published), Figure()
    means = frame[frame["layer"].isna()].assign(model="means alone")
    _draw(pd.concat([frame, means]), figure)
    assert len(figure.axes) == 1


def test_what_does_not_match_is_told(sources: Sources) -> None:
    section = comparison_section(sources)
    assert "Somebody's ‹b›table‹/b›" in section.text
    assert "2 of 5 published rates of these models have no counterpart here" in section.text
    assert "Published, but none of ours: Another." in section.text
    assert section.brief[0].shown["difference in points"].str.match(r"[+-]?\d+ \([+-]?\d+ to [+-]?\d+\)").all()
    assert "NA" not in markdown(section.tables[0])
    assert "25 % (n 200)" in markdown(section.tables[0])
    unknown = Published.model_validate(TABLE | {"models": {"VLM": {}, "Another": {}}})
    section = comparison_section(dataclasses.replace(sources, published=unknown))
    assert "Of ours the table has nothing on: made/vlm (`made/vlm`)" in section.text
    assert section.tables == section.plots == ()
    assert comparison_section(dataclasses.replace(sources, published=None)) is None


def test_a_trained_model_is_known_by_what_it_is_made_of(judge, make_results, tmp_path: Path) -> None:
    parts = {"llm": "/scratch/OLMo-7B-1024-preview", "vision": "facebook/dinov2-large", "connector": "swiglu"}
    settings = {"first_sentence": False, "unfreeze_llm": False, "unfreeze_vit": False, "seed": 3}
    paths = []
    for name, changes in (("same", {}), ("linear", {"connector": "linear"})):
        made_of = parts | settings | changes
        results = make_results(tmp_path / name, images=3, unreadable=False, model=f"made/{name}", made_of=made_of)
        paths.append(judge(results, tmp_path / f"judge-{name}", patches=3))
    table = read_published(PAPER)
    rates = tuple(rate.model_copy(update={"top_k": 3}) for rate in table.rates)
    found = compare(read_sources(paths), table.model_copy(update={"rates": rates}))
    assert set(found["model"]) == {"made/same"}
    assert set(found["published_model"]) == {"OLMo-7B + DINOv2"}


def test_the_shipped_table_says_what_the_paper_says() -> None:
    """Means over layers as printed in arXiv 2602.00462v4 (Table 4, section 4.4), and its headline over 15 models."""
    table = read_published(PAPER)
    lines = pd.DataFrame([rate.model_dump() for rate in table.rates])
    means = lines[(lines["top_k"] == 5) & lines["layer"].notna()].groupby(["model", "lens"])["rate"].mean() * 100
    printed = {
        ("Llama3-8B + SigLIP", "logit"): 7.1,
        ("Llama3-8B + SigLIP", "latent"): 62.3,
        ("Llama3-8B + DINOv2", "logit"): 7.2,
        ("Llama3-8B + DINOv2", "latent"): 77.4,
        ("Qwen2-7B + SigLIP", "logit"): 10.8,
        ("Qwen2-7B + SigLIP", "latent"): 74.3,
        ("OLMo-7B + CLIP ViT-L/14", "logit"): 34.3,
        ("OLMo-7B + CLIP ViT-L/14", "latent"): 72.3,
    }
    assert {key: round(means[key], 1) for key in printed} == printed
    rounded = {("Molmo-7B-D", "latent"): 86, ("Molmo-72B", "latent"): 78, ("Molmo-72B", "embedding"): 70}
    assert {key: round(means[key]) for key in rounded} == rounded
    alone = lines[lines["layer"].isna() & (lines["top_k"] == 5)].set_index(["model", "lens"])["rate"] * 100
    ablations = [name for name in table.models if ", " in name]
    means = means.drop(index=ablations, level="model")
    for lens, headline in (("latent", 68), ("embedding", 32), ("logit", 24)):
        models = means[means.index.get_level_values("lens") == lens]
        assert len(models) == 15
        assert round(np.mean(models)) == headline == round(alone[("mean of 15 models", lens)])
    assert set(lines["source"]) == set(table.sources)
    known = lines[lines["n"].notna()]
    assert set(known["n"]) == {100}
    assert ((known["rate"] * 100).round(9) % 1).max() == 0


def test_every_published_rate_by_layer_is_shipped_with_its_source() -> None:
    """Fifteen models x three lenses at all their layers, Tuned Lens for four models, and nine ablations."""
    table = read_published(PAPER)
    lines = pd.DataFrame([rate.model_dump() for rate in table.rates])
    lines = lines[lines["layer"].notna()]
    assert not lines.duplicated(["model", "lens", "layer"]).any()
    counted = lines.groupby(["source", "lens"])["model"].agg(["size", "nunique"])
    assert counted.loc["data"].groupby(level=0).sum().to_dict("index") == {
        lens: {"size": 131, "nunique": 14} for lens in ("latent", "embedding", "logit")
    }
    assert counted.drop(index="data").to_dict("index") == {
        **{("qwen2vl", lens): {"size": 9, "nunique": 1} for lens in ("latent", "embedding", "logit")},
        ("tunedlens", "tuned"): {"size": 36, "nunique": 4},
        ("ablations", "latent"): {"size": 81, "nunique": 9},
        ("ablations", "embedding"): {"size": 9, "nunique": 9},
    }
    means = lines.groupby(["model", "lens"])["rate"].mean() * 100
    tuned = {"Llama3-8B + SigLIP": 8.9, "OLMo-7B + CLIP ViT-L/14": 25.2}
    assert {name: round(means[name, "tuned"], 1) for name in tuned} == tuned
    # Two sources give two means for one model; each says which it is.
    assert round(means["Qwen2-VL-7B-Instruct", "latent"], 1) == 62.1
    (mean,) = [
        rate
        for rate in table.rates
        if (rate.model, rate.lens, rate.layer, rate.top_k) == ("Qwen2-VL-7B-Instruct", "latent", None, 5)
    ]
    assert (mean.rate, mean.source) == (0.625, "rebuttal")
    assert "62.1 %" in mean.note


def test_each_shipped_configuration_is_one_published_model() -> None:
    """As `lens train` would record it; another seed of the base model is the base model too."""
    table, found = read_published(PAPER), {}
    for path in sorted(Path("lenscore/training/configs").glob("*-*.yaml")):
        argv = ["--config", str(path), "--data", "captions", "--out", "run"]
        job = parse(command_of(TrainJob), argv, "lens train").settings
        source = SimpleNamespace(label="", results=SimpleNamespace(model=""), made_of=vars(job))
        found[path.stem] = [name for name, model in table.models.items() if is_ours(model, source)]
    base = "OLMo-7B + CLIP ViT-L/14"
    for name, what in {
        **{
            "linear": "linear connector",
            "first-sentence": "first sentence of each caption",
            "unfreeze": "LLM unfrozen",
        },
        **{"earlier-6": "features 6 layers earlier", "earlier-10": "features 10 layers earlier"},
        "top-bottom": "task top or bottom",
    }.items():
        assert found.pop(f"olmo-clip-{name}") == [f"{base}, {what}"]
    for seed in ("10", "11"):
        assert found.pop(f"olmo-clip-seed{seed}") == [base, f"{base}, seed {seed}"]
    assert found["olmo-clip"] == [base]
    assert len(found) == 9
    assert all(len(names) == 1 for names in found.values())


def test_the_shipped_table_knows_the_models_of_our_configurations() -> None:
    table = read_published(PAPER)
    grid = [model.made_of for model in table.models.values() if model.made_of]
    configs = [yaml.safe_load(path.read_text()) for path in Path("lenscore/training/configs").glob("*.yaml")]
    for part in ("llm", "vision"):
        assert {made[part] for made in grid} == {config[part] for config in configs if part in config}
    assert len(grid) == 9 + 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": [TABLE["rates"][0] | {"rate": 25}]}, r"rates\[0\]\.rate: .*less than or equal to 1, found '25'"),
        ({"rates": [TABLE["rates"][0] | {"n": 2}]}, r"rates\[0\]: 0\.25 is no share of n = 2 patches"),
        ({"rates": [TABLE["rates"][0] | {"source": "t2"}]}, r"rates\[0\]\.source: 't2' is not listed; sources has t1"),
        (
            {"rates": [TABLE["rates"][0] | {"model": "X"}]},
            r"rates\[0\]\.model: 'X' is not listed; models has VLM, Another",
        ),
        ({"rates": [TABLE["rates"][0] | {"layer": "two"}]}, r"rates\[0\]\.layer: .*integer, found 'two'"),
        ({"rates": [{"model": "VLM"}]}, r"rates\[0\]\.lens: Field required"),
        ({"ratez": []}, r"ratez: Extra inputs are not permitted"),
        ({"base": "papers"}, r"base: found 'papers', expected 'paper' or nothing"),
        ({"models": 3}, r"models: .*found '3'"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, changes: dict, message: str) -> None:
    (tmp_path / "t.json").write_text(json.dumps(TABLE | changes))
    with pytest.raises(InputError, match=message) as refused:
        read_published(str(tmp_path / "t.json"))
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"--compare {tmp_path / 't.json'}: ")


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.yaml").write_text("- 1\n")
    for name, message in (
        ("gone.yaml", r"no such file; expected one, or 'paper' for the published table"),
        ("broken.json", r"not readable as JSON or YAML"),
        ("list.yaml", r"found no table of fields"),
    ):
        with pytest.raises(InputError, match=message):
            read_published(str(tmp_path / name))


def test_a_file_of_ones_own_adds_to_the_papers(tmp_path: Path) -> None:
    more = {"base": "paper", "models": {"LLaVA-1.5-7B": {"ours": ["mine"]}}, "sources": {"us": "ourselves"}}
    more["rates"] = [TABLE["rates"][0] | {"model": "LLaVA-1.5-7B", "source": "us"}]
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(more))
    paper, table = read_published(PAPER), read_published(str(tmp_path / "more.yaml"))
    assert len(table.rates) == len(paper.rates) + 1
    assert table.models["LLaVA-1.5-7B"].ours == ("mine",)
    assert table.title == paper.title
    assert re.fullmatch(r"[0-9a-f]{40}", table.sources["data"].split("commit ")[1][:40])
