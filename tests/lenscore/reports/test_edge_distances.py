"""A run that a truth file judged, as the commands make it; its rates by distance recomputed from the verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from launch import cli
from lenscore.reports import writing
from lenscore.reports.edge_distances import BINS, edge_section
from lenscore.shapes import read_scene
from lenscore.shapes.rendering import object_masks
from lenscore.statistics.sources import read_sources
from storage_layouts.results import LensResults
from tests.lenscore.reports.recomputed import PATCH, answers, facts, raw_verdicts


@pytest.fixture(scope="module")
def truth(judged: tuple[LensResults, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The boxes of the objects in the pictures of the synthetic run, but for its last picture."""
    paths = [Path(one["path"]) for one in judged[0].images().to_pylist() if one["path"].endswith("1.png")]
    paths += [Path(one["path"]) for one in judged[0].images().to_pylist() if one["path"].endswith(("2.png", "3.png"))]
    lines = ["file_name,x0,y0,x1,y1,word"]
    for path in paths:
        scene = read_scene(path)
        for item, mask in zip(scene.objects, object_masks(scene), strict=True):
            y, x = np.nonzero(mask >= 0.5)
            lines.append(f"{path.name},{x.min()},{y.min()},{x.max() + 1},{y.max() + 1},{item.noun.upper()}")
    file = tmp_path_factory.mktemp("truth") / "objects.csv"
    file.write_text("\n".join(lines))
    return file


def test_a_truth_file_judges_and_the_report_shows_rates_by_distance(
    judged: tuple[LensResults, Path], truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    results, shapes_run = judged
    out = tmp_path / "verdicts"
    asked = ["--results", str(results.path), "--judge", f"truth:{truth}", "--patches", "80"]
    command = ["judge", *asked, "--out", str(out), "--items-per-shard", "20", "--workers", "1"]
    assert cli.main(command) == 0
    said = " ".join(capsys.readouterr().err.split())
    counts = facts(out)["truth"]
    assert f"names {counts['images_named']} images, {counts['images_named']} of the 12 analysed" in said
    covered, seen = counts["patches_covered"], counts["patches_seen"]
    assert f"50 % or more on {covered:,}; the other {seen - covered:,} are not judged" in said
    assert seen == 64 * 12

    verdicts = raw_verdicts(out)
    distances = verdicts.drop_duplicates(PATCH).set_index(PATCH)["edge_distance"]
    assert distances.between(0, 4).all()
    assert verdicts.groupby(PATCH)["edge_distance"].nunique().max() == 1
    for fitting in verdicts["fitting"][verdicts["outcome"] == "yes"]:
        assert fitting
    again = tmp_path / "again"  # the same bytes from other shards' workers
    assert cli.main(["judge", *asked, "--out", str(again), "--items-per-shard", "20", "--workers", "2"]) == 0
    for part in sorted((out / "verdicts").iterdir()):
        assert part.read_bytes() == (again / "verdicts" / part.name).read_bytes()
    # Runs of before, which know no distances, have no field for them.
    assert "edge_distance" not in raw_verdicts(shapes_run).columns

    section = edge_section(read_sources([out, shapes_run]))
    assert section is not None
    (table,), (plot,) = section.tables, section.plots
    for lens, lines in table.frame.groupby("lens"):
        yes = answers(out)[lens]
        assert lines["patches"].sum() == len(distances)
        for line in lines.to_dict("records"):
            if np.isnan(line["from"]):
                chosen = distances[distances.isna()].index
            else:
                chosen = distances[(distances >= line["from"]) & (distances < line["to"])].index
            assert line["patches"] == len(chosen)
            if len(chosen):
                assert line["rate"] == pytest.approx(yes.loc[chosen].to_numpy().mean())
                assert line["images"] == chosen.get_level_values("image_id").nunique()
                assert line["low"] <= line["rate"] <= line["high"]
    counted = np.histogram(distances, BINS)[0]
    assert table.frame["patches"].tolist() == 3 * counted[counted > 0].tolist()
    assert edge_section(read_sources([shapes_run])) is None
    (finding,) = section.findings
    near = (distances < 0.5).sum()
    assert f"of {near:,} patches at the edge of their object" in finding

    monkeypatch.setattr(writing, "DETAILS", (edge_section,))
    report = writing.write_report([out], tmp_path / "report")
    details = report.details.read_text()
    assert "Distance from the object's edge" in details
    assert f"of {covered:,} of {seen:,} patches of 12 images" in details
    assert finding.partition(": LogitLens")[2] in report.report.read_text()  # behind the label of the run
    for ending in ("png", "svg", "pdf", "csv"):
        assert (report.folder / "figures" / f"{plot.name}.{ending}").stat().st_size > 0
    assert len(pd.read_csv(report.folder / "tables" / "edge-distances.csv")) == len(table.frame)


def test_what_a_truth_file_changes_is_another_run(
    judged: tuple[LensResults, Path], truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, _ = judged
    mine = tmp_path / "objects.csv"
    mine.write_text(truth.read_text())
    command = ["judge", "--results", str(results.path), "--out", str(tmp_path / "out"), "--workers", "1"]
    command += ["--patches", "10", "--judge", f"truth:{mine}"]

    def refused(*words: str) -> str:
        assert cli.main([*command, *words]) == 2
        return " ".join(capsys.readouterr().err.split())

    assert cli.main(command) == 0
    assert "belongs to another run" in refused("--cover", "0.6")
    mine.write_text(truth.read_text() + "\n")
    assert "inputs.truth" in refused()
    assert "expected above 0 and at most 1" in refused("--cover", "0")
    assert "2 truths; expected one" in refused("--judge", "truth")
    assert "no such judge" in refused("--judge", "truth:nonsense")
    command[-1] = "truth:background"
    assert "--cover 0.6: only for truth:FILE" in refused("--cover", "0.6", "--out", str(tmp_path / "other"))
    command[-1] = f"truth:{tmp_path}/gone.csv"
    assert "no such file" in refused("--out", str(tmp_path / "other"))
    command[-1] = "replay:" + str(mine)
    assert "--cover 0.6: only for truth:FILE" in refused("--cover", "0.6", "--out", str(tmp_path / "other"))
    assert json.loads((tmp_path / "out" / "run.json").read_text())["config"].get("cover") is None
