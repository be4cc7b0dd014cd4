"""Judges by the Batch API: split, collected, found again after a crash, expired, cancelled."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest

from jobs.judge_job import JudgeJob
from storage_layouts.ledger_lines import read_answers
from storage_layouts.runs import RunFolder
from tests.judge_runs import PRICE, assert_books_agree, judged, prepared, right_outcomes, started, worked
from tests.odd_replies import ODDITIES


def test_batches_are_split_collected_and_found_again(
    serve, oracle, make_job, synthetic_results, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr("lenscore.judging.judges.batch.MOST_REQUESTS", 40)
    monkeypatch.setattr("lenscore.judging.judges.batch.MOST_BYTES", 200_000)
    server = serve(batch_seconds=1.0)
    job = prepared(make_job(judge="openai-batch:judge-1", patches=12), synthetic_results, oracle)
    run = started(job)

    kill_in("_collect", job, run, monkeypatch)  # while it waits: the batches are there, nothing is collected
    sent = len(server.batches)
    files = [server.files[batch["input_file_id"]] for batch in server.batches.values()]
    assert sent > 2
    assert all(len(content) <= 200_000 and content.count(b"\n") <= 40 for content in files)
    verdicts = judged(job)
    assert len(server.batches) == sent
    assert verdicts["outcome"].tolist() == right_outcomes(verdicts, synthetic_results)
    assert max(server.seen().values()) == 1
    assert_books_agree(server, run)
    assert server.billed == len(server.arrivals) * PRICE // 2
    single = judged(make_job("single", terms={"ledger": run.path / "ledger"}))  # the same questions, one by one
    assert max(server.seen().values()) == 1
    assert single["outcome"].isin(["yes", "no"]).all()


class Killed(BaseException):
    """As if the process ended here."""


def kill_in(method: str, job: JudgeJob, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker judge the first shard, as if killed when it calls a method of the asker of batches."""

    def die(*_: object) -> None:
        raise Killed

    worker = job.open_worker(run, "cpu")
    with monkeypatch.context() as patched:
        patched.setattr(f"lenscore.judging.judges.batch.BatchAsker.{method}", die)
        with pytest.raises(Killed):
            worker.run(run.missing()[0])


def test_a_batch_that_was_never_created_costs_nothing(serve, oracle, make_job, synthetic_results, monkeypatch) -> None:
    server = serve()
    job = prepared(make_job(judge="openai-batch:judge-1", patches=4), synthetic_results, oracle)
    run = started(job)
    kill_in("_create", job, run, monkeypatch)
    assert not server.batches
    monkeypatch.setattr("storage_layouts.ledger.Ledger.is_gone", lambda ledger, writer: writer != ledger.writer)
    assert judged(job)["outcome"].isin(["yes", "no"]).all()
    assert len(server.batches) == max(server.seen().values()) == 1
    assert_books_agree(server, run)


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


def test_odd_lines_of_a_batch_are_kept_and_read(serve, oracle, make_job, synthetic_results) -> None:
    server = serve()
    job = prepared(make_job(judge="openai-batch:judge-1", patches=6), synthetic_results, oracle)

    def spoil(lines: list[bytes]) -> list[bytes]:
        odd = [ODDITIES[name] for name in ("usage negative", "nested deeply", "content null", "error in a 200")]
        for i, one in enumerate(odd):
            line = json.loads(lines[i])
            line["response"]["body"] = "BODY"
            body = one.body(json.loads(lines[i])["response"]["body"])
            lines[i] = json.dumps(line).encode().replace(b'"BODY"', body)
        lines[4] = lines[4].replace(b"it shows", "it\u2028shows".encode())
        lines[5] = lines[5][: len(lines[5]) // 2]
        return lines

    server.spoils = spoil
    verdicts = judged(job)
    assert len(server.batches) == 2  # what failed was asked again
    assert server.seen().most_common(3)[2][1] == 1
    assert set(verdicts["outcome"]) == {"yes", "no", "unparsable"}
    notes = {usage["note"] for usage in verdicts["usage"] if "note" in usage}
    assert {"nested too deeply" in note for note in notes} == {True, False}
    assert_books_agree(server, job.open_run())
    by_key = defaultdict(set)
    for line in verdicts.itertuples():
        by_key[line.key].add(line.outcome)
    assert sum("unparsable" in outcomes for outcomes in by_key.values()) == 2
