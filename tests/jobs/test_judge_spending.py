"""Paid judges: nothing is paid twice, nor beyond the limit, by the books of the server itself."""

from __future__ import annotations

import os
import threading
import time
from random import Random

import pandas as pd
import pytest

from jobs.worker import job_of
from lenscore.statistics.costs import costs_of
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts
from tests.judge_runs import (
    KEY,
    PLACE,
    PRICE,
    assert_books_agree,
    budget_of,
    everything_under,
    judged,
    ledger_of,
    on_terms,
    picture_url,
    prepared,
    right_outcomes,
    start_worker,
    started,
    with_words,
    worked,
)
from tests.judge_server import FAULTS, REFUSAL


def test_nothing_is_asked_twice_nor_lost_nor_overspent_whatever_fails_and_dies(
    serve, oracle, make_job, synthetic_results, tmp_path
) -> None:
    server = serve(
        faults={
            "429": 0.08,
            "500": 0.05,
            "timeout": 0.02,
            "drop": 0.04,
            "drop after": 0.03,
            "slow": 0.3,
            "refusal": 0.05,
        }
        | {"truncated": 0.03, "malformed": 0.03},
        hang_seconds=1.5,
    )
    job = prepared(make_job(patches=16, items_per_shard=6, terms={"max_cost": 1.0}), synthetic_results, oracle)
    run = started(job)
    random = Random(1)
    for kill in range(3):
        worker = start_worker(run)
        until = len(server.arrivals) + random.randrange(15, 45)
        while len(server.arrivals) < until and worker.poll() is None:
            time.sleep(0.01)
        assert worker.poll() is None, f"kill {kill} came too late"
        worker.kill()
        worker.wait()
    run, report = worked(job)
    assert report.exit_code == 0, report
    first = read_verdicts(run)
    lost = first["usage"].map(lambda usage: usage.get("payment") == "unknown")
    assert lost.any()
    facts = [receipt.facts["unknown_payments"] for receipt in run.receipts()]
    assert sorted(key for keys in facts for key in keys) == sorted(set(first.loc[lost, "key"]))
    by_judge = [one.get("unknown", 0) for receipt in run.receipts() for one in receipt.facts["asked"].values()]
    assert sum(by_judge) == lost.sum()
    again = on_terms(job, resend_unknown=True)
    verdicts = judged(again)
    same = first[~lost].index
    pd.testing.assert_frame_equal(first.loc[same, ["key", "outcome"]], verdicts.loc[same, ["key", "outcome"]])
    assert not verdicts["usage"].map(lambda usage: usage.get("payment") == "unknown").any()
    # Every verdict is there, and each is what a perfect judge says unless the server spoilt it.
    perfect = right_outcomes(verdicts, synthetic_results)
    assert len(verdicts) == 18 * 9
    good = verdicts["outcome"].isin(["yes", "no"])
    assert [said for said, fine in zip(verdicts["outcome"], good, strict=True) if fine] == [
        right for right, fine in zip(perfect, good, strict=True) if fine
    ]
    assert set(verdicts.loc[~good, "outcome"]) <= {"refused", "unparsable", "failed"}
    assert (verdicts.loc[verdicts["outcome"] == "refused", "reply"] == REFUSAL).all()
    assert {arrival.fault for arrival in server.arrivals} == {"", *FAULTS}
    assert_books_agree(server, run, limit=1.0)
    assert KEY.encode() not in everything_under(tmp_path)


def test_the_limit_holds_and_raising_it_goes_on(serve, oracle, make_job, synthetic_results) -> None:
    server = serve(faults={"drop after": 0.1})
    job = prepared(make_job(patches=10, terms={"max_cost": 0.05}), synthetic_results, oracle)
    run, report = worked(job)
    assert report.refused.startswith("--max-cost: stopped at the limit of $0.0500: ")
    assert "\n" not in report.refused
    assert 0.6 * 0.05e9 < server.billed <= 0.05e9
    before = len(server.arrivals)
    _, report = worked(job)
    assert report.refused
    assert len(server.arrivals) - before <= 2  # what replies cost less than was reserved for them
    verdicts = judged(on_terms(job, max_cost=2.0))
    assert len(verdicts) == 11 * 9
    assert verdicts["outcome"].isin(["yes", "no"]).all()
    assert_books_agree(server, run, limit=2.0)


def test_two_workers_on_one_shard_ask_each_question_once(serve, oracle, make_job, synthetic_results) -> None:
    """A worker that was taken for dead goes on while another does the same shard."""
    server = serve(faults={"slow": 1.0})
    job = prepared(make_job(patches=6, terms={"concurrency": 4}), synthetic_results, oracle)
    run = started(job)
    receipts = []

    def zombie() -> None:
        receipts.append(job.open_worker(run, "cpu").run(run.missing()[0]))

    threads = [threading.Thread(target=zombie) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert receipts[0] == receipts[1] == receipts[2]  # and so are the bytes
    assert max(server.seen().values()) == 1


def test_a_shared_ledger_pays_once_and_can_be_replayed(
    serve, oracle, make_job, synthetic_results, tmp_path, monkeypatch
) -> None:
    server = serve()
    shared = tmp_path / "shared"
    first = judged(prepared(make_job("one", terms={"ledger": shared}), synthetic_results, oracle))
    asked = len(server.arrivals)
    more = judged(prepared(make_job("two", patches=12, terms={"ledger": shared}), synthetic_results, oracle))
    common = first.merge(more, on=[*PLACE, "layer", "lens", "control"])
    assert (common["outcome_x"] == common["outcome_y"]).all()
    assert max(server.seen().values()) == 1
    assert len(server.arrivals) > asked
    server.close()
    again = judged(make_job("three", terms={"ledger": shared}))  # neither service nor reply is needed
    pd.testing.assert_frame_equal(again, first)
    costs = costs_of(RunFolder.open(tmp_path / "three"), again)
    assert (costs.dollars, costs.spent or 0) == (pytest.approx(asked * PRICE / 1e9), 0)  # the first run paid for it
    monkeypatch.delenv("OPENAI_API_KEY")
    replayed = judged(make_job("four", judge=f"replay:{shared}", terms={"max_cost": None}))
    same = [*PLACE, "layer", "lens", "control", "candidates", "outcome", "fitting", "reply"]
    pd.testing.assert_frame_equal(replayed[same], first[same])


def test_a_worker_knows_the_terms_and_the_bill_is_counted(serve, oracle, make_job, synthetic_results) -> None:
    server = serve()
    job = prepared(make_job(terms={"service_tier": "flex"}), synthetic_results, oracle)
    run = started(job)
    (bill,) = job.bill(run)
    verdicts = judged(job)
    assert job_of(run).judge == "openai:judge-1"
    asked = with_words(verdicts)
    assert bill.calls == asked["key"].nunique() == len(server.arrivals)
    assert bill.image_tokens == bill.calls * 2 * (85 + 4 * 170)  # two square pictures, four tiles each
    assert bill.dollars < bill.worst
    assert all(body["service_tier"] == "flex" for body in server.bodies)
    assert asked["usage"].map(lambda usage: usage["dollars"]).eq(PRICE / 2 / 1e9).all()
    assert server.headers_seen[0]["authorization"] == f"Bearer {KEY}"
    assert picture_url(b"") in server.bodies[0]["input"][0]["content"][1]["image_url"]
    assert os.environ["OPENAI_API_KEY"] == KEY


def test_bodies_that_are_cut_off_may_be_paid_and_keep_the_cap(serve, oracle, make_job, synthetic_results) -> None:
    server = serve(faults={"torn": 0.5, "cut": 0.5})
    job = prepared(make_job(patches=20, terms={"max_cost": 0.05}), synthetic_results, oracle)
    run, report = worked(job)
    assert report.exit_code == 2
    ledger = ledger_of(run)
    budget = budget_of(run)
    assert 0 < server.billed <= budget.spent <= 0.05e9
    assert budget.spent == sum(ledger.committed(writer)[0] for writer in budget.holds)


def test_a_bill_above_the_worst_case_is_told_as_the_ledger_holds_it(
    serve, oracle, make_job, synthetic_results, monkeypatch
) -> None:
    serve()
    monkeypatch.setattr("tests.judge_server.INPUT_TOKENS", 90_000)
    job = prepared(make_job(patches=20, terms={"max_cost": 0.05, "concurrency": 2}), synthetic_results, oracle)
    run, report = worked(job)
    ledger = ledger_of(run)
    spent = sum(ledger.committed(path.stem)[0] for path in (run.path / "ledger").glob("*.jsonl"))
    assert spent > 0.09e9
    assert f"${spent / 1e9:.4f} are spent" in report.refused
