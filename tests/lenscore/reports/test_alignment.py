"""The mid-layer leap beside a recomputation from the Parquet files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lenscore.reports.parts.neighbours import count_neighbours
from tests.lenscore.reports.recomputed import neighbours, wilson_over_images


def test_leap_equals_a_recomputation(judged, report) -> None:
    table = neighbours(judged[0].path)
    table = table.assign(nearest=table["contextual_layers"].map(lambda layers: layers[0]))
    leap = pd.read_csv(report.folder / "tables/leap.csv").set_index("visual_layer")
    assert leap.index.tolist() == [0, 2, 5]
    for layer, of_layer in table.groupby("layer"):
        line, nearest = leap.loc[layer], of_layer["nearest"]
        first, last = table["contextual_layers"].map(min).min(), table["contextual_layers"].map(max).max()
        way = of_layer.set_index("image_id")["nearest"].sub(first) / (last - first)
        low, high = (first + (last - first) * bound for bound in wilson_over_images(way, len(way)))
        assert (line["patches"], line["images"]) == (len(nearest), 12) == (768, 12)
        assert first <= line["low"] < line["mean"] < line["high"] <= last
        assert [line["mean"], line["low"], line["high"]] == pytest.approx([nearest.mean(), low, high], abs=1e-5)
        quantiles = np.quantile(nearest, [0.5, 0.25, 0.75], method="inverted_cdf")
        assert [line["median"], line["quarter"], line["three_quarters"]] == quantiles.tolist()
        assert line["mode"] == nearest.mode()[0]
        assert line["mode_share"] == pytest.approx((nearest == line["mode"]).mean(), abs=1e-6)
        assert line["mostly_share"] > 0.5
        assert nearest.between(line["mostly_from"], line["mostly_to"]).mean() == pytest.approx(
            line["mostly_share"], abs=1e-6
        )
        assert not line["own_layer"]
    share = (table[table["layer"] == 0]["nearest"] == 4).mean()
    said = f"at visual layer 0 the nearest neighbours come mostly from contextual layer 4 ({100 * share:.0f} % of 768"
    assert said in report.report.read_text()


def test_a_shard_without_a_readable_image_is_no_obstacle(make_results, tmp_path: Path) -> None:
    results = make_results(tmp_path, images=5)  # the unreadable one is alone in the second shard
    found = count_neighbours(results)
    assert found is not None
    assert found.nearest.sum(axis=1).tolist() == [5 * 64] * 3
    assert found.sizes.shape == (5, 3)
