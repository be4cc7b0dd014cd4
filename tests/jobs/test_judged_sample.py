"""Which patches are judged depends on the seed and the images alone."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from jobs.judge_job import JudgeJob
from jobs.work import work
from launch import annotate
from lenscore.judging.spending.request_policy import RequestPolicy
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts
from tests import forked_workers, synthetic_run

Judged = dict[tuple[int, str, str], set[tuple[int, int, int, int]]]


def judged(run: RunFolder) -> Judged:
    """By layer, lens and control: the patches."""
    found: Judged = {}
    for line in read_verdicts(run).to_dict("records"):
        place = line["image_id"], line["view"], line["row"], line["col"]
        found.setdefault((line["layer"], line["lens"], line["control"]), set()).add(place)
    return found


def run_judge(results: LensResults, out: Path, **settings: object) -> RunFolder:
    job = JudgeJob(results.path, out, patches=30, **settings)
    run = job.open_run()
    job.plan(run, lambda message: None)
    assert work(run, lambda: job.open_worker(run, "cpu"), "worker").exit_code == 0
    return run


def test_layer_order_workers_and_resume_change_no_patch(
    synthetic_results: LensResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = judged(run_judge(synthetic_results, tmp_path / "first"))
    assert len(set(map(frozenset, first.values()))) == 1

    monkeypatch.setattr(synthetic_run, "LAYERS", (5, 0))  # fewer layers, in another order
    turned = synthetic_run.make_results(tmp_path / "turned")
    others = judged(run_judge(turned, tmp_path / "turned-judged"))
    assert others == {key: places for key, places in first.items() if key[0] in (0, 5)}

    out = tmp_path / "two"
    settings = [
        "--results",
        str(synthetic_results.path),
        "--out",
        str(out),
        "--patches",
        "30",
        "--items-per-shard",
        "4",
    ]
    command = [sys.executable, "-m", "launch.cli", "judge", "--judge", "truth", *settings, "--workers", "2"]
    forked_workers.run(command, check=True, capture_output=True)
    run = RunFolder.open(out)
    assert judged(run) == first
    run.receipt_path(3).unlink()  # as if the run had been killed there, and a worker with nothing in memory goes on
    (out / "plan.json").unlink()
    assert judged(run_judge(synthetic_results, out, items_per_shard=4)) == first

    other_seed = judged(run_judge(synthetic_results, tmp_path / "seed", seed=1))
    assert next(iter(other_seed.values())) != next(iter(first.values()))


def planned(results: LensResults, out: Path, **settings: object) -> RunFolder:
    """A judge that looks at pictures, planned; nobody is asked."""
    policy = RequestPolicy(no_limit=True)
    job = JudgeJob(results.path, out, judge="http://127.0.0.1:9/v1#model", seed=5, policy=policy, **settings)
    run = job.open_run()
    job.plan(run, lambda message: None)
    return run


def sample(run: RunFolder) -> list[tuple[str, int, int]]:
    return [
        (patch["sha256"], patch["row"], patch["col"])
        for patch in json.loads(run.read_plan_file("sample.json"))["patches"]
    ]


def test_judges_that_see_pictures_and_people_get_the_same_patches(
    synthetic_results: LensResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sample(planned(synthetic_results, tmp_path / "first", patches=30))
    command = [
        "--results",
        str(synthetic_results.path),
        "--out",
        str(tmp_path / "page"),
        "--patches",
        "30",
        "--seed",
        "5",
    ]
    assert annotate.main(command) == 0
    shown = json.loads((tmp_path / "page" / "data.json").read_text())
    asked = {(entry["image_sha256"], entry["patch_row"], entry["patch_col"]) for entry in shown}
    assert asked <= set(first)
    assert len(asked) >= 28  # a lens that says nothing but blanks of a patch gives no question
    monkeypatch.setattr(synthetic_run, "LAYERS", (5, 0))
    turned = synthetic_run.make_results(tmp_path / "turned")
    assert sample(planned(turned, tmp_path / "turned-judged", patches=30, items_per_shard=7)) == first


def test_images_and_patches_an_image_can_be_said(synthetic_results: LensResults, tmp_path: Path) -> None:
    all_of_them = sample(planned(synthetic_results, tmp_path / "all", patches=1000))
    assert len(all_of_them) == 12 * 64
    few = sample(planned(synthetic_results, tmp_path / "few", patches=1000, images=3, per_image=2))
    assert sorted(Counter(image for image, *_ in few).values()) == [2, 2, 2]
    assert few[:3] == all_of_them[:3]
    assert set(few) < set(all_of_them[:24])  # two rounds over all images


def test_norm_outliers_are_left_out_on_demand_and_counted(tmp_path: Path) -> None:
    results = synthetic_run.make_results(tmp_path)
    with pytest.raises(InputError, match="kept no norms"):
        planned(results, tmp_path / "none", patches=1000, norm_cut=5.0)
    sinks = {(0, 0, 7, 7), (5, 0, 0, 0), (5, 0, 3, 3)}
    results = synthetic_run.with_norms(results, sinks)
    everything = planned(results, tmp_path / "everything", patches=1000)
    filtered = planned(results, tmp_path / "filtered", patches=1000, norm_cut=5.0)
    assert "norm_outliers" not in everything.require_plan().facts
    assert filtered.require_plan().facts["norm_outliers"] == 3
    assert len(sample(everything)) - len(sample(filtered)) == 3
