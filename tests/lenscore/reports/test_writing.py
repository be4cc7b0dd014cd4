from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from lenscore.reports import writing
from lenscore.reports.alignment import alignment_section
from lenscore.reports.writing import write_report
from lenscore.statistics.sources import read_sources
from lenscore.statistics.summary import summary_table
from storage_layouts.errors import IncompleteError, InputError
from storage_layouts.runs import RunFolder


def raw_verdicts(run: Path) -> pd.DataFrame:
    return pd.concat(pd.read_json(path, lines=True) for path in sorted((run / "verdicts").iterdir()))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_rates_equal_a_recomputation(judged, report) -> None:
    verdicts = raw_verdicts(judged[1])
    verdicts["yes"] = verdicts["outcome"] == "yes"
    rates = verdicts.pivot_table(index=["lens", "layer"], columns="control", values="yes")
    counts = verdicts.pivot_table(index=["lens", "layer"], columns="control", values="yes", aggfunc="count")
    summary = pd.read_csv(report.folder / "tables/summary.csv")
    assert list(summary) == ["model", "lens", "layer", "n", "yes", "rate", "low", "high", "control"]
    assert list(zip(summary["lens"], summary["layer"], strict=True)) == [
        (lens, layer) for lens in ("latent", "logit", "embedding") for layer in (0, 2, 5)
    ]
    for line in summary.itertuples():
        assert line.rate == pytest.approx(rates.loc[(line.lens, line.layer), ""], abs=1e-6)
        assert line.control == pytest.approx(rates.loc[(line.lens, line.layer), "other-patch"], abs=1e-6)
        assert line.n == counts.loc[(line.lens, line.layer), ""] == 60
        assert line.yes == round(line.rate * line.n)
        assert line.low < line.rate < line.high
    controls = pd.read_csv(report.folder / "tables/controls.csv")
    assert len(controls) == 18
    for line in controls.itertuples():
        assert line.rate == pytest.approx(rates.loc[(line.lens, line.layer), line.control], abs=1e-6)


@pytest.mark.usefixtures("without_figures")
def test_only_yes_and_no_enter_a_rate_and_the_others_are_told(judged, tmp_path: Path, monkeypatch) -> None:
    verdicts = raw_verdicts(judged[1]).reset_index(drop=True).assign(repeat=0, edge_distance=None)
    own = verdicts.index[(verdicts["control"] == "") & (verdicts["lens"] == "logit") & (verdicts["layer"] == 2)]
    verdicts.loc[own[:3], "outcome"] = ["refused", "unparsable", "failed"]
    verdicts.loc[own[3:], "outcome"] = "no"
    monkeypatch.setattr("lenscore.statistics.sources.read_verdicts", lambda run: verdicts)
    files = write_report([judged[1]], tmp_path / "out")
    line = pd.read_csv(files.folder / "tables/summary.csv").set_index(["lens", "layer"]).loc[("logit", 2)]
    assert (line["n"], line["yes"], line["rate"]) == (57, 0, 0)
    assert "refused 1, unparsable 1, failed 1 of 540 answers" in files.report.read_text()


def test_report_says_what_a_reader_needs(judged, report) -> None:
    text = report.report.read_text()
    assert "Share of 60 sampled patches of 12 images for which one of the 3 best words is right" in text
    assert "Unreadable images: 1 of 13." in text
    assert "broken ‹b›.png" in text
    assert "<" not in text
    assert len([word for word in text.split() if word != "|"]) < 650  # two minutes, with tables skimmed
    run = RunFolder.open(judged[1])
    for fact in (run.run_id, judged[0].run.run_id, "seed 0", "python 3."):
        assert fact in text
    table = Console(file=io.StringIO(), width=120)
    table.print(summary_table(report.summaries[0]))
    assert all(
        word in table.file.getvalue() for word in ("LatentLens", "LogitLens", "random words", "60 patches a cell")
    )


def test_another_report_in_the_same_folder_is_named_as_the_cause(judged, tmp_path: Path) -> None:
    def taking_room(part: str) -> None:
        if part == "the viewer":
            shutil.rmtree(tmp_path / "report/viewer")

    with pytest.raises(InputError, match=r"--out .*report: another program took or made .*viewer.*another lens report"):
        write_report([judged[1]], tmp_path / "report", progress=taking_room)


def test_alignment_equals_a_recomputation(judged, report) -> None:
    table = judged[0].results(lens="latent").to_pandas()
    counts = pd.read_csv(report.folder / "tables/alignment.csv").set_index(["visual_layer", "contextual_layer"])
    for layer in (0, 2, 5):
        lists = np.stack(table[table["layer"] == layer]["contextual_layers"])
        for other in (1, 4):
            line = counts.loc[(layer, other)]
            assert line["count"] == (lists == other).sum()
            assert line["nearest"] == (lists[:, 0] == other).sum()
            assert line["share"] == pytest.approx((lists == other).mean(), abs=1e-6)
    assert counts["count"].sum() == 3 * 3 * 12 * 64
    # The map shows what the table, the viewer and the sentences say of the nearest neighbours.
    section = alignment_section(read_sources([judged[0].path]))
    (plot,) = [plot for plot in section.plots if plot.name.startswith("alignment")]
    figure = Figure()
    plot.draw(figure)
    drawn = figure.axes[0].images[0].get_array()
    assert np.allclose(drawn, counts["nearest_share"].unstack(), atol=1e-6)
    assert not np.allclose(drawn, counts["share"].unstack(), atol=0.01)


def test_same_runs_same_bytes_and_every_figure_has_its_data(judged, report, tmp_path: Path) -> None:
    again = write_report([judged[0].path, judged[1], judged[1]], tmp_path / "out", processes=2)
    assert files_of(again.folder) == files_of(report.folder)
    write_report([judged[1]], tmp_path / "out")  # in place of the earlier one
    assert files_of(again.folder) == files_of(report.folder)
    stems = {path.with_suffix("") for path in report.figures}
    assert {path.suffix for path in report.figures} == {".png", ".svg", ".pdf", ".csv"}
    assert len(report.figures) == 4 * len(stems)
    assert all(path.stat().st_size > 100 for path in report.figures)


def test_an_analyze_run_alone_gives_viewer_and_alignment(judged, tmp_path: Path) -> None:
    files = write_report([judged[0].path], tmp_path / "out", max_images=5)
    assert not (files.folder / "tables/summary.csv").exists()
    assert files.summaries == ()
    assert len(pd.read_csv(files.folder / "tables/alignment.csv")) == 6
    (page,) = files.viewer.parent.glob("*/index.html")
    assert len(list(page.parent.glob("images/*.js"))) == 5
    assert "5 of 12 images" in page.read_text()
    assert "no rates" in files.report.read_text()


@pytest.mark.usefixtures("without_figures")
def test_several_judges_and_models_are_told_apart(judged, make_results, judge, tmp_path: Path) -> None:
    results, first = judged
    colour = judge(results, tmp_path / "colour", judge="truth:colour", patches=20)
    other = make_results(tmp_path / "other", images=3, model="made/other")
    second = judge(other, tmp_path / "second", patches=4)
    files = write_report([first, colour, second], tmp_path / "out")
    summary = pd.read_csv(files.folder / "tables/summary.csv")
    assert list(summary["model"].unique()) == ["made/vlm truth", "made/vlm truth:colour", "made/other"]
    assert summary.groupby("model")["n"].first().to_dict() == {
        "made/vlm truth": 60,
        "made/vlm truth:colour": 20,
        "made/other": 4,
    }
    runs = json.loads((files.folder / "report.json").read_text())["runs"]
    assert [len(run["judges"]) for run in runs] == [2, 1]


def test_figures_of_single_runs_are_left_out_of_a_report_of_many_and_counted(
    judged, make_results, tmp_path: Path, monkeypatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(writing, "save_plot", lambda plot, folder: drawn.append(plot.name) or [])
    others = [make_results(tmp_path / name, images=3, model=f"made/{name}").path for name in ("one", "two")]
    for limit in (3, 2):
        monkeypatch.setattr(writing, "SINGLE_RUNS", limit)
        drawn.clear()
        files = write_report([judged[1], *others], tmp_path / "out")
        details = files.details.read_text()
        assert ("attributes-made-one" in drawn) == ("More figures" in details) == (limit == 3)
        assert ("6 figures of single runs are drawn only in a report of at most 12" in details) == (limit == 2)
        assert {"concreteness", "alignment-models", "overlap-runs-latent"} <= set(drawn)
        if limit == 2:
            assert not [name for name in drawn if f"figures/{name}.png" not in details + files.report.read_text()]


def test_wrong_requests_are_one_clear_line(judged, tmp_path: Path) -> None:
    holiday = tmp_path / "holiday"
    holiday.mkdir()
    (holiday / "photograph.png").write_bytes(b"precious")
    with pytest.raises(InputError, match=r"not a report .* photograph\.png"):
        write_report([judged[1]], holiday)
    with pytest.raises(InputError, match="at least one run"):
        write_report([], tmp_path / "out")
    inputs = RunFolder.open(judged[1]).inputs
    unfinished = RunFolder.create(tmp_path / "unfinished", "judge", {"judge": "truth"}, inputs)
    with pytest.raises(IncompleteError):
        write_report([unfinished.path], tmp_path / "out")
    assert not (tmp_path / "out").exists()
