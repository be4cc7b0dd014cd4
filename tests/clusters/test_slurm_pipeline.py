"""`lens pipeline --cluster slurm`: the whole chain is queued at once; repeating the command does what is missing."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from PIL import Image

from benchmarks.chaos import differences
from launch import pipeline, status
from storage_layouts.runs import RunFolder
from tests.clusters.slurm_cluster import wait_for
from tests.clusters.slurm_runs import FORKED
from tests.conftest import WORDS


@pytest.mark.slow
def test_a_chain_of_stages_is_queued_at_once(slurm, tiny_vlm_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photos" / "red.png")
    (tmp_path / "a.txt").write_text("\n".join(f"the {a} {b}" for a in WORDS for b in WORDS[:4]))
    settings = {
        "models": {"tiny": str(tiny_vlm_folder)},
        "corpora": {"a": "a.txt"},
        "images": "photos",
        "extract": {"rows_per_shard": 32},
        "launch": {"workers": 1, "device": "cpu"},
    }
    slurm_settings = {"cluster": "slurm", "memory": "400MB", "python": FORKED, "time": "10", **settings["launch"]}
    (tmp_path / "local.yaml").write_text(yaml.safe_dump({**settings, "out": "local"}))
    (tmp_path / "slurm.yaml").write_text(yaml.safe_dump({**settings, "out": "runs", "launch": slurm_settings}))

    assert pipeline.main(["--config", "slurm.yaml", "--detach"]) == 0
    queued_report = re.search(r"submitted SLURM job (\d+) for the report", capsys.readouterr().err)
    assert queued_report
    assert status.main(["runs"]) == 1
    assert f"lens-report of runs: waiting; SLURM job {queued_report[1]} (Dependency)" in capsys.readouterr().out
    queued = slurm.run("squeue", "--noheader", "--format=%j %E").splitlines()
    names = {line.split()[0].rpartition("-")[0] for line in queued}
    assert names == {"lens-extract", "lens-analyze", "lens"}  # the last is lens-report
    assert sum("afterany:" in line for line in queued) == 2
    report = tmp_path / "runs" / "report" / "report.json"
    wait_for(lambda: status.main(["runs"]) == 0, "the report", 180)
    assert f"lens-report of runs: complete; SLURM job {queued_report[1]}" in capsys.readouterr().out

    assert pipeline.main(["--config", "local.yaml"]) == 0
    for name in ("store.zarr", "results"):
        assert differences(tmp_path / "runs" / "tiny" / "a" / name, tmp_path / "local" / "tiny" / "a" / name) == [
            # These two name the store, which lies elsewhere, and what follows from its run id.
            *(["plan.json", "receipts/00000.json", "run.json"] if name == "results" else [])
        ]
    assert len(json.loads(report.read_text())["runs"]) == 1

    results = tmp_path / "runs" / "tiny" / "a" / "results"
    (results / "receipts" / "00000.json").unlink()
    submissions = {
        path: len(list((path / "submissions").iterdir())) for path in (results, results.parent / "store.zarr")
    }
    capsys.readouterr()
    assert pipeline.main(["--config", "slurm.yaml"]) == 0
    assert RunFolder.open(results).is_complete()
    now = {path: len(list((path / "submissions").iterdir())) for path in submissions}
    assert now == {results: 2, results.parent / "store.zarr": 1}


@pytest.mark.slow
def test_a_chain_whose_first_stage_fails_says_what_is_missing(slurm, tiny_vlm_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photos" / "red.png")
    (tmp_path / "a.txt").write_text("\n".join(f"the {a}" for a in WORDS))
    settings = {
        "out": "runs",
        "models": {"tiny": str(tiny_vlm_folder)},
        "corpora": {"a": "a.txt"},
        "images": "photos",
        "launch": {"cluster": "slurm", "memory": "400MB", "python": FORKED, "workers": 1, "device": "cpu"},
    }
    # The node never gets to the worker of the first stage; the second one finds no receipts.
    settings["extract"] = {"setup": ["exit 3"], "rounds": 1}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(settings))
    assert pipeline.main(["--config", "p.yaml", "--detach"]) == 0
    assert status.main(["runs", "--watch", "--json"]) == 1
    said = capsys.readouterr().out
    (report,) = json.loads(said)["calls"]
    assert (report["name"], report["state"]) == ("lens-report", "stopped")
    assert "results: 1 of 1 shard is missing" in report["error"], report
    assert Path(report["log"]).is_file()
    assert status.main(["runs"]) == 1
    assert "fix the cause of the last error, then repeat the command" in capsys.readouterr().out

    assert pipeline.main(["--config", "p.yaml"]) == 2
    message = capsys.readouterr().err
    assert "--setup 'exit 3' ended with exit code 3 on " in message
    assert "store.zarr: 1 of 1 shard is missing (00000); repeat the command that makes this run" in message
    assert subprocess.run(["squeue", "--noheader"], capture_output=True, text=True).stdout == ""
