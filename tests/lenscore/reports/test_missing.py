"""What report.md says is missing, and that it says a thing about many models once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from lenscore.reports.missing import missing_text
from lenscore.reports.writing import write_report
from lenscore.statistics.sources import read_sources
from lenscore.statistics.word_lists import WordLists
from lenscore.viewer.shown_models import model_of_run
from storage_layouts.errors import InputError


def test_what_is_not_there_is_said(judged, judge, tmp_path: Path) -> None:
    results, _ = judged
    sources = read_sources([judge(results, tmp_path / "few", patches=4)])
    (source,) = sources.analyses
    (one,) = source.judges
    source.judges[0] = dataclasses.replace(one, costs=dataclasses.replace(one.costs, unknown=3))
    text = missing_text(sources)
    for line in (
        "- Unreadable images: 1 of 13. These are `",
        "- Only the layers 0, 2, 5 were analysed; how many the model has is not known.",
        "- Judge truth: with 4 patches the intervals are too wide to compare lenses or layers.",
        "- Judge truth: whether 3 questions were paid is unknown",
    ):
        assert line in text
    assert "no control" not in text
    assert "<" not in text


def test_controls_that_were_not_judged_are_said(judged, monkeypatch) -> None:
    from storage_layouts.verdicts import read_verdicts

    def fewer(run):
        verdicts = read_verdicts(run)
        patches = verdicts[["image_id", "row", "col"]].drop_duplicates().head(6)
        first = verdicts.merge(patches, how="left", indicator=True)["_merge"] == "both"
        kept = (verdicts["control"] == "") | ((verdicts["control"] == "other-patch") & first.to_numpy())
        return verdicts[kept]

    monkeypatch.setattr("lenscore.statistics.sources.read_verdicts", fewer)
    text = missing_text(read_sources([judged[1]]))
    assert "- Judge truth: no control with random words.\n" in text
    assert "- Judge truth: the control with words of other patches is judged on about 6 patches only.\n" in text


def test_a_store_without_layer_0_is_no_sign_against_layer_0(judged, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = read_sources([judged[1]])
    (source,) = sources.analyses
    facts = source.results.run.require_plan().facts
    for layers, noted in (([1, 2, 5], True), ([0, 1, 5], False), ([], False)):
        monkeypatch.setitem(facts, "contextual_layers", layers)
        assert (
            "Visual layer 0 was looked up in contextual layers 1 to 5, without layer 0." in missing_text(sources)
        ) == noted
        assert bool(model_of_run(source).notes) == noted


def test_what_is_true_of_all_models_is_said_once(make_results, tmp_path: Path) -> None:
    models = [f"made/{i}" for i in range(7)]
    runs = [
        make_results(tmp_path / str(i), images=1, unreadable=i < 5, model=model).path for i, model in enumerate(models)
    ]
    lines = missing_text(read_sources(runs)).splitlines()
    assert sum("how many the model has is not known" in line for line in lines) == 1
    assert any(line.startswith("- All models: No judge run") for line in lines)
    assert len([line for line in lines if "Unreadable images" in line]) == 5  # each names its own file


@pytest.mark.parametrize("name", ["x" * 5000, "a/b", "a-b", "A-b", "<b>", "..", "\x00", "日本"])
def test_names_of_files_are_short_and_safe(name: str) -> None:
    from lenscore.statistics.file_names import file_name

    assert 0 < len(file_name(name)) < 100
    assert set(file_name(name)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-")
    assert not file_name(name).startswith(".")


def test_names_that_would_share_a_file_are_told_apart(make_results, tmp_path: Path) -> None:
    runs = [
        make_results(tmp_path / str(i), images=1, unreadable=False, model=model).path
        for i, model in enumerate(("we/ird", "we-ird", "WE/IRD", "other"))
    ]
    labels = [source.label for source in read_sources(runs).analyses]
    assert labels[3] == "other"
    assert [label[:6] for label in labels[:3]] == ["we/ird", "we-ird", "WE/IRD"]
    assert all(len(label) > 7 for label in labels[:3])


def test_images_that_could_not_be_read_are_no_obstacle(make_results, tmp_path: Path) -> None:
    none = make_results(tmp_path / "none", images=0)
    some = make_results(tmp_path / "some", images=2, unreadable_first=5)  # all of the first shard
    report = write_report([none.path, some.path], tmp_path / "report")
    assert report.left_out == (f"{none.path}: {none.path}: no image could be read, so there is nothing to report",)
    assert "Unreadable images: 6 of 8." in report.report.read_text()
    with pytest.raises(InputError, match=r"no image could be read"):
        write_report([none.path], tmp_path / "other")


def test_a_list_without_a_word_of_the_run_is_no_obstacle(make_results, tmp_path: Path) -> None:
    listed = tmp_path / "parts.csv"
    listed.write_text("word,upos\nzzyzx,NOUN\n")
    lists = WordLists.read(parts_of_speech=listed)
    write_report([make_results(tmp_path, images=2).path], tmp_path / "report", word_lists=lists)
    table = pd.read_csv(tmp_path / "report/tables/parts-of-speech.csv")
    assert not table["count"].any()
