"""Judges behind a network service: from replies to verdicts, against a real server that fails as services do."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest

from lenscore.reports import writing
from lenscore.reports.agreements import agreement_section
from lenscore.reports.judgings import judging_section
from lenscore.statistics.intervals import Rate
from lenscore.statistics.panel import agreement, decided
from storage_layouts.errors import InputError
from tests.judge_runs import (
    KEY,
    PLACE,
    PRICE,
    assert_books_agree,
    budget_of,
    compatible,
    everything_under,
    judged,
    on_terms,
    prepared,
    right_outcomes,
    started,
    with_words,
    worked,
)
from tests.judge_server import INPUT_TOKENS, OUTPUT_TOKENS


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
    asked = with_words(verdicts)
    assert max(server.seen().values()) == 1
    assert len(server.arrivals) == asked["key"].nunique()
    assert asked["usage"].map(lambda usage: usage["dropped"] == ["unasked"]).all()
    # The price file names the model, whoever serves it.
    assert asked["usage"].map(lambda usage: usage["dollars"]).eq(PRICE / 1e9).all()


def test_noise_repeats_and_a_panel_are_as_in_theory(serve, oracle, make_job, synthetic_results, monkeypatch) -> None:
    error = 0.2
    server = serve()
    oracle.error = error  # drawn in the order of arrival, so one after the other
    spec = "openai:judge-1,openai:judge-2,truth"
    job = prepared(make_job(judge=spec, patches=24, repeats=2, terms={"concurrency": 1}), synthetic_results, oracle)
    verdicts = judged(job)
    asked = with_words(verdicts)
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
    monkeypatch.setattr(writing, "SECTIONS", (agreement_section, judging_section))
    monkeypatch.setattr(writing, "DETAILS", ())
    report = writing.write_report([job.out], job.out.parent / "report").folder
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
    job = prepared(make_job(patches=8, terms={"retries": 0, "concurrency": 4}), synthetic_results, oracle)
    run, report = worked(job)
    assert "20 calls failed one after the other" in report.refused
    assert len(server.arrivals) < 30
    budget = budget_of(run)
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
    again = judged(on_terms(job, ask_failed_again=True))
    assert again["outcome"].tolist() == right_outcomes(again, synthetic_results)
    assert_books_agree(server, job.open_run())


def test_progress_moves_while_questions_are_asked(serve, oracle, make_job, synthetic_results, monkeypatch) -> None:
    monkeypatch.setattr("lenscore.judging.judges.asking.SECONDS_BETWEEN_NEWS", 0.01)
    serve()
    job = prepared(make_job(patches=10, items_per_shard=10), synthetic_results, oracle)
    run = started(job)
    (shard,) = run.missing()
    told: list[int] = []
    job.open_worker(run, "cpu").run(shard, lambda items, doing="": told.append(items))
    assert told == sorted(told)
    assert any(0 < items < shard.items for items in told)
