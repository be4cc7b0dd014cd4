"""Overlap of words between runs and lenses, against sets in plain Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lenscore.reports.overlap import count_overlap, overlap_section
from lenscore.reports.parts.drawing import PAGE_INCHES, drawn
from lenscore.statistics.sources import Sources, read_sources
from storage_layouts.results import LensResults
from tests import synthetic_run
from tests.lenscore.reports.test_words import every_word


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> LensResults:
    """The same pictures, but for one, analysed at other layers, not stored in their order, with fewer words kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_run, "TOP_K", 2)
        patch.setattr(synthetic_run, "LAYERS", (5, 0, 4))
        return synthetic_run.make_results(tmp_path_factory.mktemp("other"), images=11, model="made/other")


def sets(results: LensResults) -> dict[tuple, set[str]]:
    """The words of every (image, row, column, layer, lens); nothing where all are blank."""
    groups = every_word(results).groupby(["image_id", "row", "col", "layer", "lens"])["word"]
    return {key: set(words) for key, words in groups}


def jaccard(pairs: list[tuple[set[str], set[str]]]) -> tuple[float, float, int]:
    counted = [(len(a & b), len(a | b)) for a, b in pairs if a | b]
    return (
        float(np.mean([shared / union for shared, union in counted])),
        float(np.mean([shared for shared, _ in counted])),
        len(counted),
    )


def test_runs_and_lenses_share_what_sets_share(judged, other: LensResults) -> None:
    frame, apart = count_overlap(read_sources([judged[0].path, other.path]).analyses)
    assert apart == []
    one, two = sets(judged[0]), sets(other)
    places = [(image, row, col) for image in range(11) for row in range(8) for col in range(8)]
    between = frame[frame["first"] != frame["second"]].set_index(["first_lens", "layer"])
    assert sorted(between.index) == [(lens, layer) for lens in ("embedding", "latent", "logit") for layer in (0, 5)]
    for (lens, layer), line in between.iterrows():
        pairs = [(one.get((*p, layer, lens), set()), two.get((*p, layer, lens), set())) for p in places]
        assert (line["jaccard"], line["shared"], line["patches"]) == pytest.approx(jaccard(pairs))
        assert line["images"] == 11
        assert line["low"] < line["jaccard"] < line["high"]
    assert ((frame["low"] >= 0) & (frame["high"] <= 1)).all()
    within = frame[frame["first"] == "made/vlm"].query("second == 'made/vlm'")
    assert len(within) == 3 * 3
    places += [(11, row, col) for row in range(8) for col in range(8)]
    for line in within.itertuples():
        lenses = (line.first_lens, line.second_lens)
        pairs = [tuple(one.get((*p, line.layer, lens), set()) for lens in lenses) for p in places]
        assert (line.jaccard, line.shared, line.patches) == pytest.approx(jaccard(pairs))


def test_a_run_shares_everything_with_itself(judged, make_results, tmp_path: Path) -> None:
    twin = make_results(tmp_path, images=3, model="made/twin")
    section = overlap_section(read_sources([judged[0].path, twin.path]))
    table = next(table.frame for table in section.tables if table.name == "overlap-runs")
    assert table["jaccard"].tolist() == [1] * 9
    assert table["images"].tolist() == [3] * 9
    assert {plot.name for plot in section.plots} >= {"overlap-runs-latent", "overlap-lenses-made-vlm"}
    drawn = pd.concat(plot.data for plot in section.plots if plot.name.startswith("overlap-runs"))
    pd.testing.assert_frame_equal(drawn, table)


def test_what_cannot_be_compared_says_why(judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images = synthetic_run.write_images
    monkeypatch.setattr(synthetic_run, "GRID", 4)
    coarse = synthetic_run.make_results(tmp_path / "coarse", images=2, model="made/coarse [x]")
    monkeypatch.setattr(synthetic_run, "LAYERS", (1,))
    later = synthetic_run.make_results(tmp_path / "later", images=2, model="made/later")
    monkeypatch.setattr(synthetic_run, "write_images", lambda folder, split, count: write_images(folder, "test", count))
    strange = synthetic_run.make_results(tmp_path / "strange", images=2, unreadable=False, model="made/strange")
    runs = [judged[0].path, coarse.path, later.path, strange.path]
    section = overlap_section(read_sources(runs))
    for words in (
        "Not compared: made/vlm with made/coarse \\[x\\]: the images that both have are cut into other patches.",
        "Not compared: made/vlm with made/later: no layer in common.",
        "Not compared: made/later with made/strange: no image in common.",
    ):
        assert words in section.text
    assert "overlap-runs" not in {table.name for table in section.tables}


@pytest.mark.parametrize("count", [10, 30])
def test_many_runs_are_a_matrix_on_one_page(judged, count: int) -> None:
    source = read_sources([judged[0].path]).analyses[0]
    runs = [replace(source, label=f"made/vlm {number}") for number in range(count)]
    section = overlap_section(Sources(tuple(runs)))
    plot = next(plot for plot in section.plots if plot.name == "overlap-runs-latent")
    figure = drawn(plot)
    assert max(plot.size) <= PAGE_INCHES
    axes = figure.axes[0]
    shown = np.asarray(axes.images[0].get_array(), dtype=float)
    assert shown.shape == (count - 1, count - 1)
    assert np.array_equal(np.isfinite(shown), np.tri(count - 1, dtype=bool))
    assert (shown[np.isfinite(shown)] == 1).all()  # equal runs share everything
    assert [label.get_text() for label in axes.get_yticklabels()] == [run.label for run in runs[1:]]
