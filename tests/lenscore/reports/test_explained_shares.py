"""Explained variance of a report: what the tables say is what pandas makes of the files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import t as students

from lenscore.reports.explained_shares import ALL_LENSES, FEWEST, explained_section
from lenscore.statistics.intervals import clustered_correlation
from lenscore.statistics.sources import read_sources
from storage_layouts.results import LensResults
from storage_layouts.runs import Receipt
from storage_layouts.shards import part_name
from storage_layouts.tables import write_table
from storage_layouts.token_measures import EXPLAINED, EXPLAINED_NUMBERS, explained_schema
from tests import synthetic_run

LENSES = ["latent", "embedding"]


def with_explained(results: LensResults) -> LensResults:
    """What an analysis with --explained would have written: one more part a shard, named in its receipt."""
    rng, run, layers = np.random.default_rng(3), results.run, len(results.layers)
    plan = run.require_plan()
    for receipt in run.receipts():
        shard = plan.shard(receipt.shard)
        images = results.geometry(image_ids=range(shard.first, shard.stop)).to_pylist()
        places = [
            (image["image_id"], patch["view"], patch["row"], patch["col"], lens)
            for image in images
            for patch in image["patches"]
            for lens in LENSES
        ]
        columns = dict(zip(("image_id", "view", "row", "col", "lens"), zip(*places, strict=True), strict=True))
        for name in EXPLAINED_NUMBERS:
            values = rng.uniform(0, 1, len(places) * layers).astype(np.float32)
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values), layers)
        name = part_name(EXPLAINED, receipt.shard)
        digest = write_table(run.path / name, pa.table(columns), explained_schema(layers))
        run.write_receipt(Receipt(receipt.shard, receipt.items, receipt.files | {name: digest}, receipt.facts))
    return LensResults.open(run.path)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, judge):
    folder = tmp_path_factory.mktemp("explained")
    results = with_explained(synthetic_run.make_results(folder, images=6, explained=LENSES))
    return results, judge(results, folder / "verdicts", judge="truth", patches=60)


def test_shares_and_correlations_equal_a_recomputation(judged) -> None:
    sources = read_sources([judged[1]])
    tables = {table.name: table.frame for table in explained_section(sources).tables}
    parts = [pd.read_parquet(path) for path in sorted((judged[0].path / EXPLAINED).glob("*.parquet"))]
    numbers = pd.concat(parts, ignore_index=True)
    shares, verdicts = tables["explained-variance"], tables["explained-verdicts"]
    assert len(shares) == len(LENSES) * 3 * 2
    decided = sources.analyses[0].judges[0].verdicts.query("control == '' and outcome in ('yes', 'no')")
    for line in shares.to_dict("records"):
        place = judged[0].layers.index(line["layer"])
        of_lens = numbers[numbers["lens"] == line["lens"]]
        values = pd.DataFrame({name: np.stack(of_lens[name])[:, place].astype(float) for name in EXPLAINED_NUMBERS})
        values["image_id"] = of_lens["image_id"].to_numpy()
        total = values["variances"].sum()
        for name, shown in (("explained", "share"), ("random", "random")):
            explained = values["variances"] * values[f"{name}_{line['references']}"]
            assert line[shown] == pytest.approx(explained.sum() / total)
            pulls = (explained - line[shown] * values["variances"]).groupby(values["image_id"]).sum() / total
            reach = students.ppf(0.975, 5) * np.sqrt(6 / 5 * (pulls**2).sum())
            assert line["high" if shown == "share" else "random_high"] == pytest.approx(line[shown] + reach)
    correlated = set()
    for line in verdicts.to_dict("records"):
        said = decided[(decided["lens"] == line["lens"]) & (decided["layer"] == line["layer"])]
        place = judged[0].layers.index(line["layer"])
        of_lens = numbers[numbers["lens"] == line["lens"]].set_index(["image_id", "view", "row", "col"])
        found = of_lens.loc[list(map(tuple, said[["image_id", "view", "row", "col"]].to_numpy()))]
        values = np.stack(found[f"explained_{line['references']}"])[:, place].astype(float)
        yes = (said["outcome"] == "yes").to_numpy()
        assert line["patches"] == len(said) > 0
        assert line["share_at_yes"] == pytest.approx(values[yes].mean()) if yes.any() else True
        assert np.isnan(line["correlation"]) == (min(yes.sum(), (~yes).sum()) < FEWEST)
        if not np.isnan(line["correlation"]):
            correlated.add(line["lens"])
            assert line["correlation"] == pytest.approx(np.corrcoef(values, yes)[0, 1])
            assert line["low"] < line["correlation"] < line["high"]
    assert correlated == {"latent"}
    layers = tables["explained-layers"]
    assert layers["lens"].tolist() == [*LENSES, ALL_LENSES] * 2
    assert layers["means"].tolist() == [3, 3, 6] * 2


def test_a_report_without_it_has_no_section(judged, tmp_path) -> None:
    assert explained_section(read_sources([synthetic_run.make_results(tmp_path, images=2).path])) is None


def test_the_interval_of_a_correlation_covers_it_in_clusters() -> None:
    """Of 300 samples with a common part in each image, some 95 % have the true correlation in their interval."""
    rng, inside = np.random.default_rng(0), 0
    images = np.repeat(np.arange(40), 5)
    for _ in range(300):
        common, own = rng.normal(size=(40, 2)), rng.normal(size=(200, 2))
        x, y = (common[images] + own).T
        correlation, low, high = clustered_correlation(x, y + 0.8 * x, images)
        assert low < correlation < high
        inside += low < 0.8 / np.hypot(1, 0.8) < high
    assert 0.9 < inside / 300 < 0.99
    assert np.isnan(clustered_correlation(np.ones(4), np.arange(4.0), range(4))[0])
    assert np.isnan(clustered_correlation(np.arange(4.0), np.array([0.0, 1, 0, 1]), [1] * 4)[1])
