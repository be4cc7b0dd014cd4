"""Judge runs against the server of the tests: prices, the truth by picture, and how to run a job."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

from jobs.judge_job import JudgeJob
from jobs.judged_sample import SAMPLE
from jobs.work import WorkerReport, work
from lenscore.judging.patches import PatchRef, readable_images
from lenscore.judging.questions import ask
from lenscore.shapes import patch_truth, read_scene
from storage_layouts.budget import Budget
from storage_layouts.ledger import Ledger
from storage_layouts.ledger_lines import Reader
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts
from tests.forked_workers import start
from tests.judge_server import INPUT_PRICE, INPUT_TOKENS, OUTPUT_PRICE, OUTPUT_TOKENS, JudgeServer

KEY = "sk-do-not-tell-anyone"
PLACE = ["image_id", "view", "row", "col"]
PRICE = INPUT_PRICE * INPUT_TOKENS + OUTPUT_PRICE * OUTPUT_TOKENS  # nanodollars of one answer of judge-1
PRICES = """source: made up for the tests
date: 2026-11-21
tiers: {flex: 0.5, batch: 0.5}
models:
  judge-1: {input: 1.0, output: 2.0, images: {base: 85, tile: 170}}
  judge-2: {input: 1.0, output: 2.0, images: {base: 85, tile: 170}}
"""  # a dollar for a million tokens: 1000 nanodollars a token, as the server bills


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


def on_terms(job: JudgeJob, **terms: Any) -> JudgeJob:
    """The same job, with other terms."""
    return dataclasses.replace(job, policy=dataclasses.replace(job.policy, **terms))


def with_words(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The verdicts for which a question was asked."""
    return verdicts[verdicts["candidates"].map(len) > 0]


def budget_of(run: RunFolder) -> Budget:
    budget = Budget(run.path / "budget")
    budget.refresh()
    return budget


def ledger_of(run: RunFolder) -> Ledger:
    """A ledger that is only read."""
    ledger = Ledger(run.path / "ledger", "reader")
    ledger.refresh()
    return ledger


def everything_under(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def start_worker(run: RunFolder) -> Any:
    """A worker in a process of its own, as a launcher starts it."""
    command = [sys.executable, "-m", "jobs.worker", str(run.path), "--stale-after", "2"]
    return start(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)


def truth_by_picture(results: LensResults, run: RunFolder, job: JudgeJob) -> dict[str, frozenset[str]]:
    """The right nouns by the picture that the judge is shown, read from the scenes and not by the program's judge."""
    images = {image.image_id: image for image in readable_images(results.images(), results.geometry())}
    known = {}
    for patch in json.loads(run.read_plan_file(SAMPLE))["patches"]:
        patch.pop("right", None)
        place = PatchRef(
            **{name: patch[name] for name in ("image_id", "sha256", "view", "row", "col")}, box=tuple(patch["box"])
        )
        image = images[place.image_id]
        truth = patch_truth(read_scene(image.path), place.box)
        known[picture_url(ask(image, place, ("x",), job.question).images[0].png)] = frozenset(truth.aspects["noun"])
    return known


def picture_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def answered(folder: Path) -> list[tuple[dict[str, Any], str]]:
    """The events "answered" of a ledger, each with the text of the reply as it was received."""
    events = [line.event for file in sorted(folder.glob("*.jsonl")) for line in Reader(file).read()]
    replies = {event["call"]: event["text"] for event in events if event["event"] == "received"}
    return [(event, replies[event["call"]]) for event in events if event["event"] == "answered"]


def response_id(reply: str) -> str:
    """The server's id in the text of a reply."""
    found = re.search(r"resp_\d+", reply)
    assert found, reply
    return found[0]


def assert_books_agree(server: JudgeServer, run: RunFolder, limit: float = 10.0) -> None:
    """The server's own count: no question came again after its answer was settled, and the bill is within the cap."""
    places = {arrival.response_id: i for i, arrival in enumerate(server.arrivals) if arrival.response_id}
    for event, reply in answered(run.path / "ledger"):
        settled = places[response_id(reply)]
        question = server.arrivals[settled].question
        assert all(arrival.question != question for arrival in server.arrivals[settled + 1 :]), event
    ledger, budget = ledger_of(run), budget_of(run)
    assert all(ledger.state(call.key) != "unknown" for call in ledger.open_calls())
    committed = sum(sum(ledger.committed(writer)) for writer in budget.holds)
    assert server.billed <= committed <= budget.held <= limit * 1e9


class Oracle:
    """Decides by the scenes: the candidates that name what is in the picture's box; errs with a chance of its own."""

    def __init__(self, error: float = 0.0) -> None:
        self.right: dict[str, frozenset[str]] = {}
        self.error = error
        self._random = Random(0)

    def __call__(self, text: str, urls: list[str]) -> list[str]:
        candidates = json.loads(text[text.rindex('["') : text.rindex("]") + 1])
        fitting = [word for word in candidates if word.lower() in self.right[urls[0]]]
        if self._random.random() < self.error:
            return [] if fitting else candidates[:1]
        return fitting


def prepared(job: JudgeJob, results: LensResults, oracle: Oracle) -> JudgeJob:
    """The job, planned, with the oracle told what its pictures show."""
    oracle.right |= truth_by_picture(results, started(job), job)
    return job


def right_outcomes(verdicts: pd.DataFrame, results: LensResults) -> list[str]:
    """What a perfect judge says, from the scenes."""
    paths = results.images()["path"].to_pylist()
    found = []
    for line in verdicts.itertuples():
        box = (line.col / 8, line.row / 8, (line.col + 1) / 8, (line.row + 1) / 8)
        nouns = patch_truth(read_scene(paths[line.image_id]), box).aspects["noun"]
        found.append("yes" if any(word.lower() in nouns for word in line.candidates) else "no")
    return found


def compatible(server: JudgeServer, model: str = "judge-1") -> str:
    return f"{server.url}#{model}"
