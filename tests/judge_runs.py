"""Judge runs against the server of the tests: prices, the truth by picture, and how to run a job."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from jobs.judge import JudgeJob
from jobs.judged_sample import SAMPLE
from jobs.work import WorkerReport, work
from lenscore.judging.patches import Place, readable_images
from lenscore.judging.questions import ask
from lenscore.shapes import patch_truth, read_scene
from storage_layouts.budget import Budget
from storage_layouts.ledger import Ledger
from storage_layouts.ledger_lines import read_answers
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts
from tests.judge_server import JudgeServer

KEY = "sk-do-not-tell-anyone"
WORST_TOKENS = 400
PRICES = """source: made up for the tests
date: 2026-11-21
tiers: {flex: 0.5, batch: 0.5}
models:
  judge-1: {input: 1.0, output: 2.0, images: {base: 85, tile: 170}}
  judge-2: {input: 1.0, output: 2.0, images: {base: 85, tile: 170}}
"""  # a dollar for a million tokens: 1000 nanodollars a token, as the server bills by default


def prices(folder: Path) -> Path:
    path = folder / "prices.yaml"
    path.write_text(PRICES)
    return path


def started(job: JudgeJob) -> RunFolder:
    job.check_terms()
    run = job.open_run()
    job.plan(run, lambda message: None)
    return run


def worked(job: JudgeJob) -> tuple[RunFolder, WorkerReport]:
    """The run after one worker in this process."""
    run = started(job)
    return run, work(run, lambda: job.open_worker(run, "cpu"), f"worker-{os.urandom(4).hex()}", stale_after=2.0)


def judged(job: JudgeJob) -> pd.DataFrame:
    """The verdicts of a run that must become complete."""
    run, report = worked(job)
    assert report.exit_code == 0, report
    return read_verdicts(run)


def start_worker(run: RunFolder) -> subprocess.Popen[str]:
    """A worker in a process of its own, as a launcher starts it."""
    command = [sys.executable, "-m", "jobs.worker", str(run.path), "--stale-after", "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ.copy())


def truth_by_picture(results: LensResults, run: RunFolder, job: JudgeJob) -> dict[str, frozenset[str]]:
    """The right nouns by the picture that the judge is shown, read from the scenes and not by the program's judge."""
    images = {image.image_id: image for image in readable_images(results.images(), results.geometry())}
    known = {}
    for patch in json.loads(run.read_plan_file(SAMPLE))["patches"]:
        patch.pop("right", None)
        place = Place(
            **{name: patch[name] for name in ("image_id", "sha256", "view", "row", "col")}, box=tuple(patch["box"])
        )
        image = images[place.image_id]
        truth = patch_truth(read_scene(image.path), place.box)
        known[picture_url(ask(image, place, ("x",), job.question).images[0])] = frozenset(truth.aspects["noun"])
    return known


def picture_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def assert_books_agree(server: JudgeServer, run: RunFolder, folder: Path, limit: float) -> None:
    """The server's own count: no question came again after its answer was settled, and the bill is within the cap."""
    places = {arrival.response_id: i for i, arrival in enumerate(server.arrivals) if arrival.response_id}
    for answer in read_answers(folder):
        settled = places[answer["raw"]["id"]]
        question = server.arrivals[settled].question
        assert all(arrival.question != question for arrival in server.arrivals[settled + 1 :])
    ledger, budget = Ledger(folder, "reader"), Budget(run.path / "budget")
    ledger.refresh()
    budget.refresh()
    assert ledger.unknown() == []
    committed = sum(sum(ledger.committed(writer)) for writer in budget.holds)
    assert server.billed <= committed <= budget.held <= limit * 1e9
