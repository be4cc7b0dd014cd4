"""The demo: the whole pipeline on the shapes world, which ends in a viewer that says what is seen."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.train_job import TrainJob
from launch import analyze, demo, extract, judge, report, train
from launch.flags import parse
from launch.stages import command_of
from lenscore.real_world.preparation import RealWorld
from tests.image_scripts import parts_of_image


@pytest.mark.slow
def test_the_demo_ends_in_a_viewer_that_says_what_is_seen(tmp_path: Path, capfd) -> None:
    assert demo.main(["--out", str(tmp_path / "demo"), "--images", "8", "--workers", "1"]) == 0
    said = capfd.readouterr().out.strip().splitlines()
    index = tmp_path / "demo" / "report" / "viewer" / "index.html"
    assert f"viewer: {index}" in said
    assert said[-3].startswith(f"next: open {index} in a browser, ")
    image = tmp_path / "demo" / "images" / "test-00000.png"
    assert image.exists()
    assert f"--image {image} --store {tmp_path}/demo/store.zarr" in said[-2]
    (seen,) = re.findall(r'<p class="seen">(.*?)</p>', index.read_text())
    assert re.search(
        r"of its 5 best words is right for \d+\xa0% .* 8 patches of 8 images; the exact truth\)", html.unescape(seen)
    )
    (page,) = index.parent.glob("*/index.html")
    assert page.read_text().count('class="caption"') == 8
    _, data, *_ = parts_of_image((page.parent / "images" / "000003.js").read_text("utf-16"))
    assert "background" in [thing["kind"] for thing in data["truth"]["things"]]


def test_trained_connectors_of_the_real_world_are_judged_beside_the_fitted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, list[str]]] = []
    for module in (train, extract, analyze, judge, report):

        def record(given: Sequence[str], name: str = module.__name__) -> int:
            ran.append((name.rpartition(".")[2], list(given)))
            return 0

        record.__module__ = module.__name__
        monkeypatch.setattr(module, "in_own_process" if module is report else "main", record)
    monkeypatch.setattr(demo, "build", lambda folder, *settings: RealWorld(folder))
    out = tmp_path / "demo"
    given = ["--world", "real", "--out", str(out), "--train-steps", "20", "--workers", "2", "--dtype", "float32"]
    assert demo.main(given) == 0

    def jobs(verb: str) -> list[list[str]]:
        return [arguments for name, arguments in ran if name == verb]

    trainings: list[Any] = [parse(command_of(TrainJob), line, "lens train").settings for line in jobs("train")]
    assert [(job.out.name, job.steps, job.save_at) for job in trainings] == [
        ("model", 0, ""),
        ("captions", 20, "5"),
        ("from-nothing", 20, "5"),
    ]
    assert [bool(job.start_from) for job in trainings] == [True, True, False]
    assert {job.precision for job in trainings} == {"float32"}
    models = [line[line.index("--model") + 1] for line in jobs("analyze")]
    trained = [f"{name}/{step}" for name in ("captions", "from-nothing") for step in ("models/step-5", "model")]
    assert models == [str(out / folder) for folder in ("model/model", *trained)]
    (reported,) = jobs("report")
    assert reported[:-2] == [line[line.index("--out") + 1] for line in jobs("judge")]
    # A training is one process, and so is a report.
    assert {verb for verb, line in ran if "--workers" in line} == {"extract", "analyze", "judge"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--train-steps", "20"], "--train-steps: the model of the shapes world is trained"),
        (["--world", "real", "--train-steps", "3"], "--train-steps: found 3, expected at least 4, or 0 for none"),
        (["--dtype", "float32"], "--dtype float32: the shapes world has float32 weights"),
    ],
)
def test_flags_that_the_world_does_not_know_are_refused(
    flags: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--out", str(tmp_path / "demo"), *flags]) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "demo").exists()
