"""A judge behind a service as a SLURM job: workers on several nodes share one ledger and one budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.judge_job import JudgeJob
from lenscore.judging.questions import QuestionSettings
from lenscore.judging.spending.request_policy import RequestPolicy
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts
from tests.clusters.slurm_runs import SMALL, run_on_slurm
from tests.judge_runs import KEY, assert_books_agree, prices
from tests.judge_server import JudgeServer
from tests.synthetic_run import make_results


def test_workers_on_three_nodes_share_the_money_and_ask_nothing_twice(
    slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = make_results(tmp_path / "analyzed")
    policy = RequestPolicy(max_cost=1.0, prices=prices(tmp_path), concurrency=4)
    small = QuestionSettings(image_side=64, crop_side=32)
    with JudgeServer(lambda text, urls: ["circle"], {"429": 0.1, "slow": 0.5}, key=KEY) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        job = JudgeJob(
            results.path,
            tmp_path / "run",
            judge="openai:judge-1",
            patches=12,
            items_per_shard=2,
            max_output_tokens=400,
            question=small,
            policy=policy,
        )
        outcome = run_on_slurm(job, slurm=replace(SMALL, gpus_per_node=0), workers=3)
        assert outcome.code == 0, outcome.words
        run = RunFolder.open(tmp_path / "run")
        assert len(read_verdicts(run)) == 14 * 9
        assert len(list((run.path / "ledger").iterdir())) > 1
        answered = [arrival.question for arrival in server.arrivals if arrival.response_id]
        assert len(answered) == len(set(answered))
        assert_books_agree(server, run, limit=1.0)
    assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
