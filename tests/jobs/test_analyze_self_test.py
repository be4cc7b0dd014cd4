"""The self-test as `lens analyze` runs it: before the first image, unless told not to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.analyze_job import AnalyzeJob
from launch import analyze
from lenscore.images import preprocessing as batches
from storage_layouts.errors import InputError


def mirrored(*given: Any) -> Any:
    """A geometry that takes left for right."""
    return [
        dataclasses.replace(
            found,
            patches=tuple(dataclasses.replace(p, left=1 - p.right, right=1 - p.left) for p in found.patches),
        )
        for found in HONEST(*given)
    ]


HONEST = batches.image_geometry


@pytest.fixture
def job(tiny_vlm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnalyzeJob:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30), (90, 20, 20)).save(tmp_path / "images" / "a.png")
    monkeypatch.setenv("LENSCORE_CACHE", str(tmp_path / "cache"))
    return AnalyzeJob(str(tiny_vlm_folder), tmp_path / "images", tmp_path / "run", lenses="logit")


def test_no_image_is_analysed_with_a_geometry_that_is_wrong(
    job: AnalyzeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "image_geometry", mirrored)
    run = job.open_run()
    job.plan(run, lambda message: None)
    with pytest.raises(InputError, match=r"self-test of the llava family failed: quadrants \(square\)"):
        job.open_worker(run, "cpu")
    trusting = dataclasses.replace(job, self_test=False, out=tmp_path / "other")
    run = trusting.open_run()
    trusting.plan(run, lambda message: None)
    assert trusting.open_worker(run, "cpu").run(run.require_plan().shard(0)).items == 1
    assert run.config["self_test"] is False


def test_what_passed_is_remembered_and_the_flag_is_there(
    job: AnalyzeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", job.model, "--images", str(job.images), "--lenses", "logit"]
    assert analyze.main([*arguments, "--out", str(job.out), "--device", "cpu"]) == 0
    assert len(list((tmp_path / "cache" / "self-tests").rglob("*.json"))) == 1
    assert analyze.main([*arguments, "--out", str(tmp_path / "no"), "--device", "cpu", "--no-self-test"]) == 0
    assert len(list((tmp_path / "cache" / "self-tests").rglob("*.json"))) == 1


def test_spread_without_gpus_is_one_line(job: AnalyzeJob, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", job.model, "--images", str(job.images), "--lenses", "logit", "--out", str(job.out)]
    assert analyze.main([*arguments, "--device", "spread"]) == 2
    assert "--device spread: torch" in capsys.readouterr().err
