"""Drift, norms and kinds of verdicts: what the figures draw is what pandas makes of the files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lenscore.reports.missing import missing_text
from lenscore.reports.state_drift import states_section
from lenscore.reports.verdict_types import verdict_types_section
from lenscore.statistics.sources import read_sources
from storage_layouts.verdicts import Verdict
from tests import synthetic_run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory):
    made = synthetic_run.make_results(tmp_path_factory.mktemp("states"), images=4)
    return synthetic_run.with_cosines(synthetic_run.with_norms(made, sinks={(1, 0, 2, 2)}))


def by_layer(results, folder: str, column: str) -> pd.DataFrame:
    parts = [pd.read_parquet(path) for path in sorted((results.path / folder).glob("*.parquet"))]
    table = pd.concat(parts, ignore_index=True)
    return pd.DataFrame(np.stack(table[column]), columns=results.layers).assign(image_id=table["image_id"])


def test_cosines_and_norms_equal_a_recomputation(results) -> None:
    section = states_section(read_sources([results.path]))
    tables = {table.name: table.frame for table in section.tables}
    for baseline in ("own", "shuffled"):
        values = by_layer(results, "cosines", baseline)
        found = tables["cosines"].query("baseline == @baseline").set_index("layer")
        assert found["tokens"].tolist() == [4 * 64 - (baseline == "shuffled")] * 3
        assert set(found["first_layer"]) == {0}
        for layer in results.layers:
            expected = values[layer].quantile([0.25, 0.5, 0.75]).tolist()
            assert found.loc[layer, ["q25", "median", "q75"]].tolist() == pytest.approx(expected)
            assert found.loc[layer, "mean"] == pytest.approx(values[layer].mean())
            by_image = values.groupby("image_id")[layer]
            pulls = (by_image.sum() - values[layer].mean() * by_image.count()) / values[layer].count()
            error = np.sqrt(4 / 3 * (pulls**2).sum())
            assert found.loc[layer, "high"] == pytest.approx(values[layer].mean() + 3.182446 * error, rel=1e-5)
    norms = by_layer(results, "norms", "norms")
    found = tables["norms"].set_index("layer")
    for layer in results.layers:
        expected = [*norms[layer].quantile([0.25, 0.5, 0.75, 0.99]), norms[layer].max()]
        assert found.loc[layer, ["q25", "median", "q75", "p99", "largest"]].tolist() == pytest.approx(expected)
    assert found["largest"].min() > 10 * found["median"].max()  # the sink
    assert [plot.data is tables[plot.name] for plot in section.plots] == [True, True]
    assert "with its own state at layer 0 is" in section.findings[0]


def test_older_runs_have_a_place_in_what_is_missing(judged) -> None:
    sources = read_sources([judged[0].path])
    assert states_section(sources) is None
    assert "kept no norms and no cosines" in missing_text(sources)


def verdict(image: int, layer: int, lens: str, outcome: str, **lists: list[str]) -> Verdict:
    reply = {"reasoning": "", "concrete_words": [], "abstract_words": [], "global_words": []}
    said = json.dumps(reply | {f"{kind}_words": words for kind, words in lists.items()})
    return Verdict(image, 0, 0, 0, layer, lens, "", ("Cat", "<b>", "joy"), outcome, reply=said, judge="j")


def test_kinds_of_verdicts_are_counted_once_a_patch(results, tmp_path: Path) -> None:
    said = [
        verdict(0, 0, "latent", "yes", concrete=["cat"], abstract=["joy"]),
        verdict(1, 0, "latent", "yes", abstract=["JOY"], **{"global": ["cat"]}),
        verdict(2, 0, "latent", "yes", **{"global": ["<b>"]}),
        verdict(3, 0, "latent", "no", concrete=["not asked about"]),
        verdict(0, 2, "latent", "refused"),
        verdict(1, 2, "latent", "yes"),  # says yes, but not how
        verdict(2, 2, "latent", "no"),
    ]
    judge = synthetic_run.judge_run(tmp_path / "judge", results, said)
    section = verdict_types_section(read_sources([judge]))
    found = section.tables[0].frame.set_index(["layer", "kind"])["count"]
    assert found.loc[0].to_dict() == {"concrete": 1, "abstract": 1, "global": 1, "yes": 0, "no": 1}
    assert found.loc[2].to_dict() == {"concrete": 0, "abstract": 0, "global": 0, "yes": 1, "no": 1}
    frame = section.tables[0].frame
    assert frame.groupby(["lens", "layer"])["share"].sum().tolist() == [1, 1]
    # One of four: Wilson's interval from 4.6 to 69.9 percent.
    line = frame.set_index(["layer", "kind"]).loc[(0, "concrete")]
    assert (line["low"], line["high"]) == pytest.approx((0.0456, 0.6994), abs=1e-4)


def test_kinds_of_one_image_are_no_independent_answers(results, tmp_path: Path) -> None:
    """Ten patches of each of four images that are all alike say no more than one patch of each."""
    frames = []
    for patches in (1, 10):
        said = [
            replace(verdict(image, 0, "latent", "yes", **{kind: ["cat"]}), col=col)
            for image, kind in enumerate(["concrete", "abstract", "abstract", "global"])
            for col in range(patches)
        ]
        judge = synthetic_run.judge_run(tmp_path / f"judge {patches}", results, said)
        frames.append(verdict_types_section(read_sources([judge])).tables[0].frame.set_index("kind"))
    one, ten = frames
    assert ten["share"].tolist() == one["share"].tolist()
    assert ((ten["high"] - ten["low"]) > 0.9 * (one["high"] - one["low"])).all()


def test_a_judge_that_tells_no_kinds_has_none(judged) -> None:
    assert verdict_types_section(read_sources([judged[1]])) is None
