"""Judges whose service sends what no plain reply is: everything is kept, read as far as it can be, and paid once."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from launch.stage_summary import missing_answers, useless
from launch.stages import Launch, run_stage
from lenscore.judging.judges.books import Books
from lenscore.judging.judges.connection import unsafe_key
from storage_layouts.errors import CorruptError
from storage_layouts.ledger_lines import Reader
from storage_layouts.runs import Receipt, RunFolder
from storage_layouts.verdicts import read_verdicts
from storage_layouts.verification import verify
from tests.judge_runs import (
    KEY,
    answered,
    assert_books_agree,
    budget_of,
    compatible,
    everything_under,
    judged,
    prepared,
    response_id,
    right_outcomes,
    worked,
)
from tests.judge_server import JudgeServer
from tests.odd_replies import ODDITIES, OVERLOADED


def received(folder: Path) -> list[dict]:
    events = [line.event for file in folder.glob("*.jsonl") for line in Reader(file).read()]
    return [event for event in events if event["event"] == "received"]


def fault_by_key(server: JudgeServer, folder: Path) -> dict[str, str]:
    """What was odd in the reply that became the answer to a question, by its key."""
    faults = {arrival.response_id: arrival.fault for arrival in server.arrivals if arrival.response_id}
    return {event["key"]: faults[response_id(reply)] for event, reply in answered(folder)}


@pytest.mark.parametrize("shape", ["responses", "chat"])
def test_every_odd_reply_is_kept_and_read_as_what_it_is(
    shape: str, serve, oracle, make_job, synthetic_results, monkeypatch, tmp_path
) -> None:
    # Good replies after each round of odd ones: or a question could meet what fails each time that it is sent.
    server = serve(script=(*ODDITIES, *[""] * 60))
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    spec = "openai:judge-1" if shape == "responses" else compatible(server)
    job = prepared(make_job(judge=spec, patches=16, terms={"concurrency": 6}), synthetic_results, oracle)
    verdicts = judged(job)
    run = job.open_run()
    faults = fault_by_key(server, run.path / "ledger")
    assert set(faults.values()) - {""} == {name for name, odd in ODDITIES.items() if odd.means != "failed"}
    right = right_outcomes(verdicts, synthetic_results)
    for line, truth in zip(verdicts.itertuples(), right, strict=True):
        if line.candidates and not faults.get(line.key):
            assert line.outcome == truth
        elif line.candidates:
            odd = ODDITIES[faults[line.key]]
            assert line.outcome == (truth if odd.means == "answer" else "unparsable"), faults[line.key]
            assert line.usage["dollars"] >= 0
            assert ("note" in line.usage) == (odd.means == "unparsable")
    cut = verdicts[verdicts["key"].map(faults.get) == "content null"]
    assert cut["usage"].map(lambda usage: "raise --max-output-tokens" in usage["note"]).all()
    # No question again after its answer; what failed was asked again, and is an answer now.
    assert verdicts["outcome"].isin(["yes", "no", "unparsable"]).all()
    assert_books_agree(server, run)
    # Every byte that came stands in the ledger as it came.
    for event in received(run.path / "ledger"):
        if (found := server.sent.get(response_id(event["text"]) if "resp_" in event["text"] else "")) is not None:
            text = event["text"].encode("utf-8", "surrogateescape")
            assert text == found[: len(text)], (event["text"][-300:], found[-300:])
            assert event["whole"] == (len(text) == len(found))
    assert verify(run.path).problems == []


def test_a_reply_that_cannot_be_understood_is_kept_and_not_paid_again(
    serve, oracle, make_job, synthetic_results, monkeypatch
) -> None:
    server = serve()
    # The writer is this process, which lives on: its calls count as under way as long as clocks may differ.
    monkeypatch.setattr("storage_layouts.ledger.CLOCKS_DIFFER_SECONDS", 0.0)
    job = prepared(make_job(patches=3), synthetic_results, oracle)
    with monkeypatch.context() as patched:
        patched.setattr(Books, "_record", lambda *_: 1 / 0)
        run, report = worked(job)
    assert report.failed
    asked = len(server.arrivals)
    assert asked == len(received(run.path / "ledger")) > 0
    run.retry_failed()
    verdicts = judged(job)
    assert verdicts["outcome"].tolist() == right_outcomes(verdicts, synthetic_results)
    assert max(server.seen().values()) == 1
    assert_books_agree(server, run)


@pytest.mark.parametrize(
    ("fault", "said"),
    [("error in a 200", OVERLOADED), ("page", "no JSON: <html><body>Sign in"), ("nothing", "an empty body")],
)
def test_a_service_that_never_answers_stops_the_command_with_its_own_words(
    fault: str, said: str, serve, oracle, make_job, synthetic_results
) -> None:
    server = serve(faults={fault: 1.0})
    job = prepared(make_job(patches=8), synthetic_results, oracle)
    run, report = worked(job)
    assert report.exit_code == 2
    assert "20 calls failed one after the other" in report.refused
    assert said in report.refused
    assert report.refused.isprintable()
    assert len(server.arrivals) < 60
    budget = budget_of(run)
    assert budget.spent == budget.held == 0
    server.faults = {}
    assert judged(job)["outcome"].isin(["yes", "no"]).all()


@pytest.mark.parametrize(
    ("status", "error", "message", "most"),
    [
        (400, {"message": "json_schema is not supported"}, "3 questions were refused .* json_schema is not sup", 20),
        (429, {"message": "You exceeded your quota", "type": "insufficient_quota"}, "refuses: .*your quota", 16),
        (402, {"message": "add credit"}, "refuses: Error code: 402 - add credit", 16),
        (403, {"message": f"not with {KEY}"}, r"does not accept the key in OPENAI_API_KEY .*not with \[key\]", 16),
    ],
)
def test_a_permanent_refusal_stops_the_command_at_the_first_ones(
    status: int, error: dict, message: str, most: int, serve, oracle, make_job, synthetic_results, tmp_path
) -> None:
    server = serve(refuses=(status, {"error": error}))
    job = prepared(make_job(patches=20), synthetic_results, oracle)
    _, report = worked(job)
    assert report.exit_code == 2
    assert re.search(message, report.refused)
    assert len(server.arrivals) <= most
    assert KEY.encode() not in everything_under(tmp_path)


@pytest.mark.parametrize("to", ["https://elsewhere.example/v1/", "/v1/responses/"])
def test_a_redirect_is_refused_with_the_address(to: str, serve, oracle, make_job, synthetic_results) -> None:
    server = serve(redirects_to=to)
    job = prepared(make_job(patches=3), synthetic_results, oracle)
    _, report = worked(job)
    assert report.exit_code == 2
    assert f"sends the request on to {to} (status 301)" in report.refused
    assert all(arrival.billed == 0 for arrival in server.arrivals)


def test_all_requests_pause_until_the_service_wants_them(serve, oracle, make_job, synthetic_results) -> None:
    server = serve(script=("429", *[""] * 200), retry_after="6")
    job = prepared(make_job(patches=3, terms={"concurrency": 1, "retries": 1}), synthetic_results, oracle)
    run = job.open_run()
    began, told = time.monotonic(), []
    receipt = job.open_worker(run, "cpu").run(run.missing()[0], lambda items, doing: told.append(doing))
    assert time.monotonic() - began > 6
    assert receipt.facts["outcomes"]["openai:judge-1"].keys() <= {"yes", "no"}
    assert [line for line in told if "asks to wait for 6 seconds: no request until " in line]
    assert max(server.seen().values()) == 2


def test_a_pause_that_nobody_waits_for_is_said_and_stops_the_command(
    serve, oracle, make_job, synthetic_results
) -> None:
    server = serve(faults={"429": 1.0}, retry_after="86400")
    job = prepared(make_job(patches=3), synthetic_results, oracle)
    _, report = worked(job)
    assert "asks to wait for 86,400 seconds, until " in report.refused
    assert len(server.arrivals) <= 16
    server.faults = {}
    assert judged(job)["outcome"].isin(["yes", "no"]).all()


def planned(folder: Path, items: int) -> RunFolder:
    run = RunFolder.create(folder / "run", "judge", {}, {"results": {"path": "none", "run_id": "none"}})
    run.write_plan(items, 4, {}, {})
    return run


@pytest.mark.parametrize(("failed", "asked_again"), [(2, False), (3, True)])
def test_last_words_on_a_receipt_that_does_not_count_them_by_judge(tmp_path, failed: int, asked_again: bool) -> None:
    run = planned(tmp_path, 4)
    facts = {"outcomes": {"one": {"yes": 1, "failed": failed}}, "unknown_payments": ["a" * 64, "b" * 64]}
    run.write_receipt(Receipt(0, 4, {}, facts))
    said = "\n".join(missing_answers(run))
    assert "2 requests were under way when a worker died" in said
    assert "--resend-unknown" in said
    assert ("--ask-failed-again" in said) == asked_again


_FINE = {"things": 4, "answered": 1, "why": "oops"}


@pytest.mark.parametrize("asked", [[], {"one": 3}, {"one": _FINE | {"why": 2}}, {"one": _FINE | {"unknown": "2"}}])
def test_a_receipt_with_odd_counts_of_a_judge_is_refused(tmp_path, asked: object) -> None:
    run = planned(tmp_path, 4)
    run.write_receipt(Receipt(0, 4, {}, {"outcomes": {"one": {"yes": 1, "failed": 3}}, "asked": asked}))
    with pytest.raises(CorruptError, match=r"facts\.asked = .*expected what each judge was asked"):
        missing_answers(run)


def test_last_words_count_each_verdict_once_and_name_the_flag_that_helps_this_judge(tmp_path) -> None:
    run = planned(tmp_path, 8)
    asked = {"things": 4, "answered": 1, "why": "oops"}
    outcomes = {"one": {"yes": 1, "failed": 2, "refused": 1}, "other": {"yes": 1, "failed": 3}}
    facts = {"outcomes": outcomes, "asked": {"one": asked | {"unknown": 2}, "other": asked}}
    run.write_receipt(Receipt(0, 4, {}, facts | {"unknown_payments": ["a" * 64, "b" * 64]}))
    run.write_receipt(Receipt(1, 4, {}, facts | {"unknown_payments": ["c" * 64, "d" * 64]}))
    first, second, unknown = missing_answers(run)
    assert "2 refused, 4 perhaps paid of 8 verdicts" in first
    assert "--ask-failed-again" not in first
    assert "6 failed of 8 verdicts" in second
    assert "--ask-failed-again" in second
    assert "4 requests were under way when a worker died" in unknown
    assert "--resend-unknown" in unknown


@pytest.mark.parametrize(("fault", "why"), [("content null", "raise --max-output-tokens"), ("500", "oops")])
def test_a_run_without_a_single_yes_or_no_is_not_called_complete(
    fault: str, why: str, serve, oracle, make_job, synthetic_results, capsys
) -> None:
    serve(faults={fault: 1.0})
    job = prepared(make_job(patches=1, terms={"retries": 0}), synthetic_results, oracle)
    assert run_stage(job, Launch(workers=1)) == 1
    said = capsys.readouterr().err
    assert "judge: failed: no verdict is a yes or no, so there is no rate" in said
    assert "complete" not in said
    assert why in said
    run = job.open_run()
    assert useless(run) == "no verdict is a yes or no, so there is no rate"
    assert why in missing_answers(run)[0]
    assert len(read_verdicts(run)) == 9


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://10.0.0.7:8000/v1", True),
        ("http://judge.example/v1", True),
        ("https://judge.example/v1", False),
        ("http://127.0.0.2:8000/v1", False),
        ("http://[::1]:8000/v1", False),
        ("http://localhost:8000/v1", False),
    ],
)
def test_a_key_that_travels_unencrypted_is_told(url: str, warned: bool, monkeypatch) -> None:
    monkeypatch.delenv("JUDGE_API_KEY", raising=False)
    assert unsafe_key(url) == ""
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    assert ("the key in JUDGE_API_KEY is sent without encryption" in unsafe_key(url)) == warned
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    assert ("the key in OPENAI_API_KEY is sent without encryption" in unsafe_key(None)) == warned
    assert KEY not in unsafe_key(None)


def test_the_warning_stands_once_before_anything_is_sent(make_job, monkeypatch, capsys) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    url = "http://10.0.0.7:8000/v1"
    make_job(judge=f"{url}#judge-1,{url}#judge-2").check_terms()
    assert capsys.readouterr().err.count("sent without encryption") == 1
