"""`lens pipeline`: a file of models and corpora, all stages, and only what is missing the second time."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from PIL import Image

from launch import pipeline
from launch.pipeline_file import read_pipeline
from storage_layouts.runs import RunFolder
from tests.conftest import WORDS


@pytest.fixture
def settings(tmp_path, tiny_vlm_folder, monkeypatch):
    """One tiny VLM, two corpora, three images; everything lies in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (40, 30), (80 * i, 30, 200 - 60 * i)).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "a.txt").write_text("\n".join(f"the {a} {b}" for a in WORDS for b in WORDS[:4]))
    (tmp_path / "b.txt").write_text("\n".join(f"a {a} on {b}" for a in WORDS for b in WORDS[:4]))
    return {
        "out": "runs",
        "models": {"tiny": str(tiny_vlm_folder)},
        "corpora": {"a": "a.txt", "both": ["a.txt", "b.txt"]},
        "images": "photos",
        "extract": {"rows_per_shard": 64, "workers": 2},
        "analyze": {"layers": [0, 2]},
        "launch": {"workers": 1},
    }


def run(settings, *flags) -> int:
    with open("pipeline.yaml", "w") as file:
        yaml.safe_dump(settings, file)
    return pipeline.main(["--config", "pipeline.yaml", *flags])


@pytest.mark.slow
def test_all_stages_for_every_corpus_and_then_only_what_is_missing(settings, tmp_path, capsys):
    assert run(settings) == 0
    outputs = ("store.zarr", "results")
    folders = [tmp_path / "runs" / "tiny" / corpus / name for corpus in ("a", "both") for name in outputs]
    assert all(RunFolder.open(folder).is_complete() for folder in folders)
    assert RunFolder.open(folders[1]).config["store"] == str(folders[0])
    assert RunFolder.open(folders[2]).require_plan().items > RunFolder.open(folders[0]).require_plan().items
    assert RunFolder.open(folders[0]).require_plan().items_per_shard == 64
    assert len(json.loads((tmp_path / "runs" / "report" / "report.json").read_text())["runs"]) == 2
    capsys.readouterr()

    (folders[3] / "receipts" / "00000.json").unlink()
    before = {folder: RunFolder.open(folder).attempts_log() for folder in folders}
    assert run(settings) == 0
    after = {folder: RunFolder.open(folder).attempts_log() for folder in folders}
    assert [folder for folder in folders if before[folder] != after[folder]] == [folders[3]]


@pytest.mark.slow
def test_a_tuned_lens_is_a_stage_of_its_own(settings, tmp_path, capsys):
    settings["corpora"] = {"a": "a.txt"}
    settings["tune"] = {"steps": 2, "sequences_per_step": 4, "tokens_per_sequence": 8}
    assert run(settings, "--plan", "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert "tiny/a tune: probed on cpu" in printed
    assert "after tune" in printed
    assert run(settings) == 0
    folder = tmp_path / "runs" / "tiny" / "a"
    assert (folder / "tuned" / "evaluation.csv").read_text().startswith("layer,logit_cross_entropy,")
    assert (folder / "tuned" / "lens" / "params.pt").exists()
    results = RunFolder.open(folder / "results")
    assert results.config["tuned"] == str(folder / "tuned")
    assert results.config["lenses"] == "latent,logit,embedding,tuned"
    (result,) = read_pipeline(tmp_path / "pipeline.yaml", []).chains
    assert [path.name for path in result[2].job.upstream] == ["store.zarr", "tuned"]


@pytest.mark.slow
def test_a_chain_that_fails_does_not_keep_the_others(settings, tmp_path, capsys):
    settings["models"] = {"absent": str(tmp_path / "nowhere"), **settings["models"]}
    settings["corpora"] = {"a": "a.txt"}
    del settings["images"], settings["analyze"]
    assert run(settings) == 2
    assert "no such model folder" in capsys.readouterr().err
    assert RunFolder.open(tmp_path / "runs" / "tiny" / "a" / "store.zarr").is_complete()


def test_a_stopped_pipeline_begins_no_other_chain(settings, monkeypatch, capsys):
    begun = []

    def stopped(job, *_):
        begun.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run_stage", stopped)
    assert run(settings) == 130
    assert len(begun) == 1
    assert "repeat the command to go on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpora": None}, "'corpora' is missing"),
        ({"imagse": "photos"}, "no section 'imagse'; did you mean images?"),
        ({"xyz": "photos"}, "no section 'xyz'; expected some of out, models"),
        ({"extract": {"per_tokens": 3}}, "pipeline.yaml: extract: no field 'per_tokens'; did you mean per_token?"),
        ({"extract": {"per_token": "x"}}, "pipeline.yaml: extract: per_token: found 'x', expected INT"),
        ({"extract": {"model": "x"}}, "extract: 'model' is set by the pipeline itself"),
        ({"extract": {"per_token": 0}}, "--per-token: found 0"),
        ({"extract": 7}, "extract: found 7, expected fields"),
        ({"corpora": ["x/a.txt", "y/a.txt"]}, "corpora: 'a.txt' occurs twice"),
        ({"corpora": {"../up": "a.txt"}}, "the name '../up' cannot be a folder"),
        ({"analyze": {"cluster": "ray"}}, "found stages on local and ray, expected one cluster"),
        ({"report": {"pages": 3}}, "report: no field 'pages'"),
        ({"images": None, "judge": {"judge": "truth"}}, "'judge' needs 'images'"),
        ({"tune": {}, "analyze": {"lenses": "latent,logit"}}, "'tune' needs tuned among the lenses of analyze"),
        ({"tune": {"corpus": "x"}}, "tune: 'corpus' is set by the pipeline itself"),
    ],
)
def test_a_wrong_file_is_one_clear_line_and_nothing_begins(settings, tmp_path, capsys, change, message):
    settings |= change
    assert run({key: value for key, value in settings.items() if value is not None}) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("error: ") == 1
    assert not (tmp_path / "runs").exists()


def test_the_printed_example_is_a_pipeline_file(settings, tmp_path, capsys):
    assert pipeline.main(["--print-config"]) == 0
    (tmp_path / "example.yaml").write_text(capsys.readouterr().out)
    read = read_pipeline(tmp_path / "example.yaml", [])
    assert [stage.job.stage for stage in read.chains[0]] == ["extract", "tune", "analyze", "judge"]
    assert len(read.chains) == 4


@pytest.mark.slow
def test_a_plan_is_one_table_of_the_whole_chain_and_writes_nothing(settings, tmp_path, capsys):
    settings["models"]["twin"] = settings["models"]["tiny"]
    settings["corpora"] = {"a": "a.txt"}
    settings["judge"] = {"judge": "truth"}
    before = sorted(tmp_path.iterdir())
    assert run(settings, "--plan", "--device", "cpu") == 0
    printed = capsys.readouterr()
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "pipeline.yaml"])
    lines = [line.split("│")[1:-1] for line in printed.out.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert [row[:3] for row in cells[:6]] == [
        [model, "a", stage] for model in ("tiny", "twin") for stage in ("extract", "analyze", "judge")
    ]
    for extract, analyze, judge in (cells[:3], cells[3:6]):
        rows, shards = int(extract[3].split()[0].replace(",", "")), int(extract[4])
        assert shards == -(-rows // 64)
        assert re.fullmatch(r"[\d.]+ s", extract[5])
        assert "B" in extract[6]
        assert analyze[3:] == ["3 images", "1", "after extract", "after extract", "$0.00"]
        assert judge[3:] == ["", "after analyze", "after analyze", "after analyze", "$0.00"]
    assert cells[6][0] == "in all"
    assert cells[6][4] == f"at least {2 * int(cells[0][4]) + 2}"
    assert cells[6][7] == "$0.00"
    assert "tiny/a extract: probed on cpu" in printed.out
    assert "error" not in printed.err


@pytest.mark.slow
def test_a_plan_with_a_wrong_model_still_plans_the_others(settings, tmp_path, capsys):
    settings["models"] = {"absent": str(tmp_path / "nowhere"), **settings["models"]}
    settings["corpora"] = {"a": "a.txt"}
    assert run(settings, "--plan", "--device", "cpu") == 2
    printed = capsys.readouterr()
    assert "error: absent/a extract: " in printed.err
    assert "tiny/a extract: probed on cpu" in printed.out
