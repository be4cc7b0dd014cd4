"""Judges over the network, against a real server on this machine that fails as services do and keeps its own books."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random

import pandas as pd
import pytest

from jobs.worker import job_of
from lenscore.reports import write_report
from lenscore.statistics.costs import costs_of
from lenscore.statistics.intervals import Rate
from lenscore.statistics.panel import agreement, decided
from storage_layouts.budget import Budget
from storage_layouts.errors import InputError
from storage_layouts.ledger_lines import read_answers
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts
from tests.judge_runs import (
    KEY,
    assert_books_agree,
    compatible,
    judged,
    picture_url,
    prepared,
    right_outcomes,
    start_worker,
    started,
    worked,
)
from tests.judge_server import FAULTS, INPUT_TOKENS, OUTPUT_TOKENS, REFUSAL

PLACE = ["image_id", "view", "row", "col"]
PRICE = 1000 * INPUT_TOKENS + 2000 * OUTPUT_TOKENS  # nanodollars of one answer of judge-1


def everything_under(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("shape", ["responses", "chat"])
def test_replies_become_the_verdicts_of_a_perfect_judge(
    shape: str, serve, oracle, make_job, synthetic_results, monkeypatch
) -> None:
    server = serve()
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    spec = "openai:judge-1" if shape == "responses" else compatible(server)
    job = prepared(make_job(judge=spec, patches=12), synthetic_results, oracle)
    verdicts = judged(job)
    assert verdicts["outcome"].tolist() == right_outcomes(verdicts, synthetic_results)
    assert Counter(verdicts["control"]) == {"": 12 * 9, "other-patch": 2 * 9}  # a tenth of 12, rounded up
    groups = verdicts.groupby(["layer", "lens", "control"])[PLACE]
    places = {control: set() for control in ("", "other-patch")}
    for (_, _, control), group in groups:
        places[control].add(frozenset(group.itertuples(index=False, name=None)))
    assert {control: len(found) for control, found in places.items()} == {"": 1, "other-patch": 1}
    body = server.bodies[0]
    form = body["text"]["format"] if shape == "responses" else body["response_format"]["json_schema"]
    assert form["strict"]
    assert form["schema"]["additionalProperties"] is False
    assert set(form["schema"]["required"]) == set(form["schema"]["properties"])
    asked = verdicts[verdicts["candidates"].map(len) > 0]
    assert max(server.seen().values()) == 1
    assert len(server.arrivals) == asked["key"].nunique()
    assert asked["usage"].map(lambda usage: usage["dropped"] == ["unasked"]).all()
    # The price file names the model, whoever serves it.
    assert asked["usage"].map(lambda usage: usage["dollars"]).eq(PRICE / 1e9).all()


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
        worker.communicate()
    run, report = worked(job)
    assert report.exit_code == 0, report
    first = read_verdicts(run)
    lost = first["usage"].map(lambda usage: usage.get("payment") == "unknown")
    assert lost.any()
    facts = [receipt.facts["unknown_payments"] for receipt in run.receipts()]
    assert sorted(key for keys in facts for key in keys) == sorted(set(first.loc[lost, "key"]))
    by_judge = [one.get("unknown", 0) for receipt in run.receipts() for one in receipt.facts["asked"].values()]
    assert sum(by_judge) == lost.sum()
    again = dataclasses.replace(job, policy=dataclasses.replace(job.policy, resend_unknown=True))
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
    assert_books_agree(server, run, tmp_path / "run" / "ledger", limit=1.0)
    assert KEY.encode() not in everything_under(tmp_path)


def test_the_limit_holds_and_raising_it_goes_on(serve, oracle, make_job, synthetic_results) -> None:
    server = serve(faults={"drop after": 0.1})
    job = prepared(make_job(patches=20, terms={"max_cost": 0.05}), synthetic_results, oracle)
    run, report = worked(job)
    assert report.refused.startswith("--max-cost: stopped at the limit of $0.0500: ")
    assert "\n" not in report.refused
    assert 0.6 * 0.05e9 < server.billed <= 0.05e9
    before = len(server.arrivals)
    _, report = worked(job)
    assert report.refused
    assert len(server.arrivals) - before <= 2  # what replies cost less than was reserved for them
    verdicts = judged(dataclasses.replace(job, policy=dataclasses.replace(job.policy, max_cost=2.0)))
    assert len(verdicts) == 22 * 9
    assert verdicts["outcome"].isin(["yes", "no"]).all()
    assert_books_agree(server, run, run.path / "ledger", limit=2.0)


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


def test_noise_repeats_and_a_panel_are_as_in_theory(serve, oracle, make_job, synthetic_results) -> None:
    error = 0.2
    server = serve()
    oracle.error = error  # drawn in the order of arrival, so one after the other
    spec = "openai:judge-1,openai:judge-2,truth"
    job = prepared(make_job(judge=spec, patches=24, repeats=2, terms={"concurrency": 1}), synthetic_results, oracle)
    verdicts = judged(job)
    asked = verdicts[verdicts["candidates"].map(len) > 0]
    truth = asked[asked["judge"] == "truth"].set_index([*PLACE, "layer", "lens", "control"])["outcome"]
    for judge in ("openai:judge-1", "openai:judge-2"):
        for repeat in range(2):
            said = asked[(asked["judge"] == judge) & (asked["repeat"] == repeat)]
            said = said.drop_duplicates("key").set_index([*PLACE, "layer", "lens", "control"])["outcome"]
            wrong = int((said != truth[said.index]).sum())
            rate = Rate.of(wrong, len(said))
            assert rate.low < error < rate.high
    found = agreement(asked.drop_duplicates(["judge", "repeat", *PLACE, "candidates"])).set_index(["first", "second"])
    for pair in (("openai:judge-1", "openai:judge-2"), ("openai:judge-1", "openai:judge-1")):
        assert found.loc[pair, "low"] < 1 - 2 * error * (1 - error) < found.loc[pair, "high"]
    # A right judge and two noisy ones: wrong together only where both noisy ones are.
    final = decided(asked).set_index([*PLACE, "layer", "lens", "control"])["outcome"]
    both = Rate.of(int((final != truth[final.index]).sum()), len(final))
    assert both.low < error**2 < both.high
    assert max(server.seen().values()) == 2  # repeats send equal questions
    report = write_report([job.out], job.out.parent / "report").folder
    told = pd.read_csv(report / "tables/agreement.csv").set_index(["first", "second"])
    pd.testing.assert_series_equal(told["agree"], agreement(verdicts).set_index(["first", "second"])["agree"])
    assert "| openai:judge-1 | itself, asked again |" in (report / "report.md").read_text()
    books = pd.read_csv(report / "tables/judging.csv").iloc[0]
    assert books["dollars"] == books["spent"] == pytest.approx(server.billed / 1e9, abs=1e-6)
    assert books["questions"] == len(server.arrivals)
    assert (books["input_tokens"], books["output_tokens"]) == (
        INPUT_TOKENS * len(server.arrivals),
        OUTPUT_TOKENS * len(server.arrivals),
    )


def test_what_is_judged_depends_on_nothing_else(serve, oracle, make_job, synthetic_results) -> None:
    serve()
    plain = judged(prepared(make_job("plain"), synthetic_results, oracle))
    others = judged(make_job("others", items_per_shard=3, terms={"concurrency": 1}))
    pd.testing.assert_frame_equal(plain, others)
    few = judged(make_job("few", top_k=1))
    assert few[PLACE].drop_duplicates().values.tolist() == plain[PLACE].drop_duplicates().values.tolist()


def test_batches_are_split_collected_and_found_again(
    serve, oracle, make_job, synthetic_results, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr("lenscore.judging.batch.MOST_REQUESTS", 40)
    monkeypatch.setattr("lenscore.judging.batch.MOST_BYTES", 200_000)
    server = serve(batch_seconds=1.0)
    job = prepared(make_job(judge="openai-batch:judge-1", patches=12), synthetic_results, oracle)
    run = started(job)

    worker = job.open_worker(run, "cpu")
    with monkeypatch.context() as patched:
        # As if killed while it waits: the batches are there, nothing is collected.
        patched.setattr("lenscore.judging.batch.BatchAsker._collect", die)
        with pytest.raises(Killed):
            worker.run(run.missing()[0])
    sent = len(server.batches)
    files = [server.files[batch["input_file_id"]] for batch in server.batches.values()]
    assert sent > 2
    assert all(len(content) <= 200_000 and content.count(b"\n") <= 40 for content in files)
    verdicts = judged(job)
    assert len(server.batches) == sent
    assert verdicts["outcome"].tolist() == right_outcomes(verdicts, synthetic_results)
    assert max(server.seen().values()) == 1
    assert_books_agree(server, run, run.path / "ledger", limit=10.0)
    assert server.billed == len(server.arrivals) * PRICE // 2
    single = judged(make_job("single", terms={"ledger": run.path / "ledger"}))  # the same questions, one by one
    assert max(server.seen().values()) == 1
    assert single["outcome"].isin(["yes", "no"]).all()


class Killed(BaseException):
    """As if the process ended here."""


def die(*_: object) -> None:
    raise Killed


def test_a_batch_that_was_never_created_costs_nothing(serve, oracle, make_job, synthetic_results, monkeypatch) -> None:
    server = serve()
    job = prepared(make_job(judge="openai-batch:judge-1", patches=4), synthetic_results, oracle)
    run = started(job)
    worker = job.open_worker(run, "cpu")
    with monkeypatch.context() as patched:
        patched.setattr("lenscore.judging.batch.BatchAsker._create", die)
        with pytest.raises(Killed):
            worker.run(run.missing()[0])
    assert not server.batches
    monkeypatch.setattr("storage_layouts.ledger.Ledger.is_gone", lambda ledger, writer: writer != ledger.writer)
    assert judged(job)["outcome"].isin(["yes", "no"]).all()
    assert len(server.batches) == max(server.seen().values()) == 1
    assert_books_agree(server, run, run.path / "ledger", limit=10.0)


def test_an_expired_batch_keeps_what_it_finished(serve, oracle, make_job, synthetic_results) -> None:
    server = serve(ends_batches_as="expired", batch_answers_share=0.6)
    job = prepared(make_job(judge="openai-batch:judge-1", patches=12), synthetic_results, oracle)
    verdicts = judged(job)
    assert len(server.batches) == 4
    assert max(server.seen().values()) == 1
    done = verdicts["outcome"].isin(["yes", "no"])
    assert done.mean() > 0.9  # 1 - 0.4 ** 4 are expected
    assert verdicts.loc[~done, "usage"].map(lambda usage: "batch_expired" in usage["error"]).all()


def test_a_cancelled_batch_stops_the_run_and_keeps_what_it_finished(serve, oracle, make_job, synthetic_results) -> None:
    server = serve(ends_batches_as="cancelled", batch_answers_share=0.5)
    job = prepared(make_job(judge="openai-batch:judge-1", patches=12), synthetic_results, oracle)
    run, report = worked(job)
    assert "was cancelled; what it finished is kept" in report.refused
    kept = len(list(read_answers(run.path / "ledger")))
    assert kept == len(server.arrivals) > 20
    server.ends_batches_as = "completed"
    assert judged(job)["outcome"].isin(["yes", "no"]).all()
    assert max(server.seen().values()) == 1


def test_mistakes_are_one_clear_line(serve, make_job, synthetic_results, tmp_path, monkeypatch) -> None:
    server = serve()
    for wrong, message in (
        ({"judge": "openai:"}, "--judge openai:: expected openai:MODEL"),
        ({"judge": "openai:gpt-9"}, "no price is known for the model 'gpt-9'"),
        ({"judge": "http://host/v1"}, "with a model behind the #"),
        ({"judge": f"replay:{tmp_path}/nothing"}, "no such file"),
        ({"judge": "truth,truth"}, "named twice"),
        ({"terms": {"max_cost": None}}, "it costs money; expected --max-cost DOLLARS"),
        ({"terms": {"max_cost": -1.0}}, "--max-cost: found -1.0"),
        ({"terms": {"no_limit": True}}, "found both"),
        ({"judge": "truth", "terms": {"service_tier": "flex"}}, "--service-tier flex: only for openai:MODEL"),
        ({"judge": "truth", "repeats": 2}, "the truth always answers the same"),
        ({"repeats": 0}, "--repeats: found 0"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            started(make_job("wrong", **wrong))
        assert "\n" not in str(refused.value)
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    for number, (judge, message) in enumerate(
        [
            (compatible(server, "judge-9"), "has no model 'judge-9'; it has judge-1, judge-2"),
            ("http://127.0.0.1:9/v1#judge-1", "no service answers at http://127.0.0.1:9/v1"),
            (server.url.replace("/v1", "/v2") + "#judge-1", "or the address is wrong"),
        ]
    ):
        _, report = worked(make_job(f"wrong{number}", judge=judge, terms={"retries": 0}))
        assert message in report.refused
        assert "\n" not in report.refused
    server.models = ("judge-2",)
    _, report = worked(make_job("gone"))
    assert f"{server.url} has no model 'judge-1' for this key" in report.refused
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "-wrong")
    _, report = worked(make_job("key"))
    assert "does not accept the key in OPENAI_API_KEY" in report.refused
    assert KEY not in report.refused  # though the server repeats it
    assert server.arrivals == []
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match="no key; set the environment variable OPENAI_API_KEY"):
        started(make_job("none"))
    assert KEY.encode() not in everything_under(tmp_path)


def test_a_service_that_is_broken_stops_the_run_before_it_fails_everything(
    serve, oracle, make_job, synthetic_results
) -> None:
    server = serve(faults={"500": 1.0})
    job = prepared(make_job(patches=20, terms={"retries": 0, "concurrency": 4}), synthetic_results, oracle)
    run, report = worked(job)
    assert "20 calls failed one after the other" in report.refused
    assert len(server.arrivals) < 30
    budget = Budget(run.path / "budget")
    budget.refresh()
    assert budget.held == 0  # refusals cost nothing
    server.faults = {}
    assert judged(job)["outcome"].isin(["yes", "no"]).all()


def test_what_failed_is_an_outcome_and_can_be_asked_again(serve, oracle, make_job, synthetic_results) -> None:
    server = serve(faults={"500": 0.4})
    job = prepared(make_job(patches=6, terms={"retries": 0}), synthetic_results, oracle)
    first = judged(job)
    failed = first["outcome"] == "failed"
    assert 0.2 < failed.mean() < 0.6
    assert set(first.loc[failed, "usage"].map(lambda usage: usage["error"])) == {"Error code: 500 - oops"}
    server.faults = {}
    pd.testing.assert_frame_equal(judged(job), first)
    again = judged(dataclasses.replace(job, policy=dataclasses.replace(job.policy, ask_failed_again=True)))
    assert again["outcome"].tolist() == right_outcomes(again, synthetic_results)
    assert_books_agree(server, job.open_run(), job.out / "ledger", limit=10.0)


def test_rate_limits_are_kept(serve) -> None:
    from lenscore.judging.service import pause_seconds

    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2.5s"}
    assert pause_seconds(headers) == 62.5
    assert pause_seconds(headers | {"x-ratelimit-remaining-requests": "3"}) == 0
    tokens = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}
    assert pause_seconds(headers | tokens) == 62.5
    assert pause_seconds(tokens) == 0.12
    assert pause_seconds(tokens | {"x-ratelimit-reset-tokens": "9h"}) == 120


def test_a_worker_knows_the_terms_and_the_bill_is_counted(serve, oracle, make_job, synthetic_results) -> None:
    server = serve()
    job = prepared(make_job(terms={"service_tier": "flex"}), synthetic_results, oracle)
    run = started(job)
    (bill,) = job.bill(run)
    verdicts = judged(job)
    assert job_of(run).judge == "openai:judge-1"
    asked = verdicts[verdicts["candidates"].map(len) > 0]
    assert bill.calls == asked["key"].nunique() == len(server.arrivals)
    assert bill.image_tokens == bill.calls * 2 * (85 + 4 * 170)  # two square pictures, four tiles each
    assert bill.dollars < bill.worst
    assert all(body["service_tier"] == "flex" for body in server.bodies)
    assert asked["usage"].map(lambda usage: usage["dollars"]).eq(PRICE / 2 / 1e9).all()
    assert server.headers_seen[0]["authorization"] == f"Bearer {KEY}"
    assert picture_url(b"") in server.bodies[0]["input"][0]["content"][1]["image_url"]
    assert os.environ["OPENAI_API_KEY"] == KEY


def test_progress_moves_while_questions_are_asked(serve, oracle, make_job, synthetic_results, monkeypatch) -> None:
    monkeypatch.setattr("lenscore.judging.service_judge.SECONDS_BETWEEN_NEWS", 0.01)
    serve()
    job = prepared(make_job(patches=20, items_per_shard=20), synthetic_results, oracle)
    run = started(job)
    (shard,) = run.missing()
    told: list[int] = []
    job.open_worker(run, "cpu").run(shard, lambda items, doing="": told.append(items))
    assert told == sorted(told)
    assert any(0 < items < shard.items for items in told)
