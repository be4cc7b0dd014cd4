"""Which runs a report is of, and what becomes of it when one of them, or its store, is damaged, moved or gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from launch.report import main as lens_report
from lenscore.reports.missing import missing_text
from lenscore.reports.provenance import runs_table, runs_text
from lenscore.statistics.sources import Sources, read_sources
from storage_layouts.errors import CorruptError, InputError
from storage_layouts.files import json_bytes
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from tests import synthetic_run


@pytest.fixture
def two(make_results, tmp_path: Path) -> tuple[LensResults, LensResults]:
    """Two analyze runs of one image each, with a store each."""
    kinds = {"images": 1, "unreadable": False}
    return tuple(make_results(tmp_path / name, model=f"made/{name}", luck=i, **kinds) for i, name in enumerate("ab"))


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def lenses(sources: Sources) -> dict[str, tuple[str, ...]]:
    return {source.label: source.results.lenses for source in sources.analyses}


def test_a_report_of_two_runs_is_one_of_the_good_run_and_names_the_other(two, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("lenscore.reports.writing.save_plot", lambda plot, folder: [])  # figures take their time
    good, bad = two
    flip(next(bad.path.glob("results/*.parquet")))  # of the same size: seen when it is read
    out = tmp_path / "out"
    assert lens_report([str(good.path), str(bad.path), "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    text = (out / "report.md").read_text()
    for said in (printed, text):
        assert f"eft out: {bad.path}" in said
        assert "delete receipts/00000.json and repeat the command" in said
    runs = pd.read_csv(out / "tables/runs.csv")
    assert good.run.run_id in runs["run_id"].tolist()
    assert bad.run.run_id not in runs["run_id"].tolist()
    assert len(list((out / "viewer").glob("*/run.js"))) == 1
    (good.path / "plan.json").unlink()
    assert lens_report([str(good.path), str(bad.path), "--out", str(out)]) == 2  # nothing is left
    refusal = capsys.readouterr().err
    assert all(f"\n{run.path}: " in refusal for run in two)


@pytest.mark.parametrize("name", ["run.json", "plan.json", "receipts/00000.json", "images.parquet"])
def test_every_kind_of_damage_leaves_the_other_run(two, name: str) -> None:
    good, bad = two
    data = (bad.path / name).read_bytes()
    (bad.path / name).write_bytes(data[:-1] if name == "images.parquet" else data.replace(b"1", b"2"))
    sources = read_sources([good.path, bad.path])
    assert [source.label for source in sources.analyses] == ["made/a"]
    assert len(sources.left_out) == 1
    assert name.rpartition("/")[2] in sources.left_out[0]
    with pytest.raises(CorruptError):
        read_sources([bad.path])
    with pytest.raises(InputError, match="not a run folder"):
        read_sources([good.path, bad.path / "mistyped"])


def test_without_its_store_the_other_lenses_are_reported_and_a_moved_one_is_found(two, tmp_path: Path) -> None:
    first, second = two
    store = RunFolder.open(second.store().path)
    moved = tmp_path / "elsewhere.zarr"
    shutil.move(store.path, moved)
    sources = read_sources([first.path, second.path])
    assert lenses(sources) == {"made/a": ("latent", "logit", "embedding"), "made/b": ("logit", "embedding")}
    (line,) = sources.left_out
    assert line.startswith(f"LatentLens of {second.path}: ")
    assert f"{second.path} needs the store at {store.path}" in line
    assert "was it moved?" in line
    assert set(sources.analyses[1].results.results().column("lens").to_pylist()) == {"logit", "embedding"}
    assert f"The store `{store.path}` is gone" in missing_text(sources)
    named = read_sources([first.path, second.path, moved])
    assert lenses(named)["made/b"] == ("latent", "logit", "embedding")
    assert named.left_out == ()
    assert named.analyses[1].results.store_path == moved


def test_verdicts_on_words_whose_store_is_gone_still_count(judged, judge, tmp_path, monkeypatch, make_results) -> None:
    monkeypatch.setattr("lenscore.reports.writing.save_plot", lambda plot, folder: [])
    results = make_results(tmp_path / "made", images=2, unreadable=False)
    run = judge(results, tmp_path / "judge", patches=6)
    shutil.rmtree(results.store().path)
    assert lens_report([str(run), "--out", str(tmp_path / "out")]) == 1
    summary = pd.read_csv(tmp_path / "out/tables/summary.csv")
    assert set(summary["lens"]) == {"latent", "logit", "embedding"}
    assert "LatentLens of" in (tmp_path / "out/report.md").read_text()


def test_a_judge_run_names_the_results_that_it_needs(two, judge, tmp_path: Path) -> None:
    first, second = two
    run = judge(second, tmp_path / "judge", patches=1)
    moved = tmp_path / "elsewhere"
    shutil.move(second.path, moved)
    with pytest.raises(InputError, match=f"{run} needs the run that it was made of, at {second.path} .*was it moved"):
        read_sources([run])
    assert len(read_sources([first.path, run]).left_out) == 1
    assert len(read_sources([run, moved]).analyses[0].judges) == 1


def test_a_second_folder_of_the_judged_run_hides_no_verdicts(two, judge, tmp_path: Path) -> None:
    _, judged = two
    run = judge(judged, tmp_path / "judge", patches=1)
    planning = tmp_path / "planning"
    planning.mkdir()
    shutil.copy(judged.path / "run.json", planning / "planning.json")
    sources = read_sources([run, planning])
    assert [source.results.path for source in sources.analyses] == [judged.path]
    assert len(sources.analyses[0].judges) == 1
    assert [line.split(":")[0] for line in sources.left_out] == [str(planning)]


@pytest.mark.parametrize("name", ["plan.json", "receipts/00000.json", "images.parquet"])
def test_a_bad_copy_that_is_named_first_hides_no_good_one(two, judge, tmp_path: Path, name: str) -> None:
    good, _ = two
    run = judge(good, tmp_path / "judge", patches=1)
    bad = shutil.copytree(good.path, tmp_path / "bad")
    data = (bad / name).read_bytes()
    (bad / name).write_bytes(data[:-1] if name == "images.parquet" else data.replace(b"1", b"2"))
    sources = read_sources([bad, bad, good.path, run])
    assert [(source.results.path, len(source.judges)) for source in sources.analyses] == [(good.path, 1)]
    assert [line.split(":")[0] for line in sources.left_out] == [str(bad)]


def test_a_damaged_copy_hides_neither_verdicts_nor_a_store_whatever_the_order(two, judge, tmp_path: Path) -> None:
    _, judged = two
    run, store = judge(judged, tmp_path / "judge", patches=1), judged.store().path
    copies = [shutil.copytree(path, tmp_path / f"copy of {path.name}") for path in (run, judged.path, store)]
    damaged = {path.resolve(): "damaged" for path in (run, judged.path, store)}
    sources = read_sources([run, judged.path, store, *copies], damaged)
    (source,) = sources.analyses
    assert (source.results.path, source.results.store_path) == (copies[1], copies[2])
    assert [judge.run.path for judge in source.judges] == [copies[0]]
    assert lenses(sources) == {source.label: ("latent", "logit", "embedding")}
    assert [other.path for other in sources.others] == [copies[2]]


def test_each_run_has_its_folder_inputs_command_time_host_and_version(two) -> None:
    first, second = two
    created = {"command": "lens analyze --images '/data/my photos'", "time": "2026-11-29T00:10:13+00:00"}
    created |= {"host": "node7", "commit": "0123456789abcdef"}
    for results, recorded in ((first, {"created": created}), (second, {})):  # the second by an older version
        content = json.loads((results.path / "run.json").read_bytes())
        del content["crc32"], content["created"]
        (results.path / "run.json").write_bytes(json_bytes(content | recorded))
    sources = read_sources([first.path / ".." / "run", second.path])
    table = runs_table(sources).frame.set_index("run_id")
    line = table.loc[first.run.run_id]
    found = (line["command"], line["time"], line["host"], line["commit"], line["folder"])
    assert found == (*created.values(), str(first.path))
    assert table["stage"].tolist() == ["extract", "analyze", "analyze"]  # both searched one store
    older = table.loc[second.run.run_id]
    assert (older["command"], older["time"], older["host"]) == ("", "", "")
    text = runs_text(sources)
    assert "```sh\nlens analyze --images '/data/my photos'\n```" in text
    assert "2026-11-29 00:10" in text
    assert "node7" in text
    assert "/../" not in text


def test_copies_of_one_model_are_called_so(make_results, tmp_path: Path) -> None:
    made = [make_results(tmp_path / str(i), model=f"made/{i}", images=2, unreadable=False) for i in range(3)]
    kept = [synthetic_run.with_norms(results, set()) for results in made[:2]]
    kept.append(synthetic_run.with_norms(made[2], {(0, 0, 1, 1)}))
    text = runs_text(read_sources([results.path for results in kept]))
    assert "- made/0, made/1: byte-identical hidden states of the same images" in text


def test_the_default_choice_of_layers_is_no_alarm(two, monkeypatch) -> None:
    sources = read_sources([two[0].path])
    run = sources.analyses[0].results.run
    monkeypatch.setitem(run.require_plan().facts, "depth", 7)
    for layers, said in (("0,2,5", True), ("paper", False)):
        monkeypatch.setitem(run.config, "layers", layers)
        assert ("these were not analysed: 1, 3, 4, 6" in missing_text(sources)) == said
    assert runs_table(sources).frame["layers"].tolist() == ["", "0, 2, 5 of 7"]


def test_a_report_of_an_extract_run_alone_says_that_there_are_no_words_yet(two, tmp_path: Path, capsys) -> None:
    assert lens_report([str(two[0].store().path), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/report.md").read_text()
    assert "- No run of `lens analyze` was given, so there are no words of any lens yet." in text
    assert "| extract " in text
    assert "No words yet" in (tmp_path / "out/viewer/index.html").read_text()
