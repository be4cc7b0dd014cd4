"""Whatever a service sends, it is read as an answer, as one that nobody can read, or as none; and never believed."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenscore.judging.judges.api import MOST_TOKENS, Endpoint, read_batch_line, read_response
from lenscore.judging.judges.books import Books
from lenscore.judging.judges.judge_spec import Answer, Failure
from lenscore.judging.judges.pauses import pause_seconds, retry_after
from lenscore.judging.spending.prices import Price, Tariff
from lenscore.judging.spending.request_policy import RequestPolicy
from storage_layouts.ledger import Ledger

NAMES = ["choices", "output", "message", "content", "usage", "error", "code", "status", "type", "text", "refusal"]
NAMES += ["prompt_tokens", "completion_tokens", "output_tokens", "input_tokens", "cached_tokens", "finish_reason"]
NAMES += ["response", "status_code", "body", "custom_id"]
ODD_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([10**400, -1, 1e300, "output_text", "message", "length", "completed"])
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=5),
    max_leaves=25,
)


def dumped(value: object) -> str:
    return json.dumps(value)  # with NaN and Infinity, as Python and others write them


@given(ODD_JSON | st.text() | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_nothing_breaks_the_reading_and_no_count_is_negative(content: object) -> None:
    text = content if isinstance(content, str) else dumped(content)
    for said in [
        *(read_response(api, status, text, whole) for api in ("chat", "responses") for status in (200, 500)
          for whole in (True, False)),
        *(read_batch_line(api, text) for api in ("chat", "responses")),
    ]:  # fmt: skip
        assert isinstance(said.text, str)
        said.text.encode()  # no lone surrogates
        assert said.failure.isprintable()
        assert all(0 <= count <= MOST_TOKENS for count in (said.usage or {}).values())


@given(ODD_JSON, ODD_JSON, ODD_JSON)
def test_whatever_is_in_the_usage_costs_at_least_nothing_and_the_text_is_read(
    taken: object, made: object, cached: object
) -> None:
    usage = {"prompt_tokens": taken, "completion_tokens": made, "prompt_tokens_details": {"cached_tokens": cached}}
    said = read_response("chat", 200, dumped({"choices": [{"message": {"content": "red"}}], "usage": usage}))
    assert (said.text, said.failure) == ("red", "")
    if said.usage is not None:
        assert Tariff(Price(input=1, output=2, cached=0.1)).cost(said.usage) >= 0


def chat(message: object = None, ends: str = "stop", **more: object) -> str:
    return dumped({"choices": [{"message": message, "finish_reason": ends}], **more})


@pytest.mark.parametrize(
    ("reply", "text", "note"),
    [
        (chat({"content": None, "reasoning_content": "hm"}), "", "went into reasoning; raise --max-output-tokens"),
        (chat({"content": ""}, ends="length"), "", "went into reasoning; raise --max-output-tokens"),
        (chat({"content": None}), "", "its content is null"),
        (chat({"content": {"a": 1}}), "", "its content is dict"),
        (chat("red"), "", "the reply is empty"),
        (chat({"content": '{"rea'}, ends="length"), '{"rea', "cut off; raise --max-output-tokens"),
        (chat({"content": [{"type": "thinking", "thinking": [1]}, {"type": "text", "text": "red"}]}), "red", ""),
        (chat({"content": "a\ud800b"}), "a\ufffdb", ""),
    ],
)
def test_a_reply_without_a_readable_text_says_why(reply: str, text: str, note: str) -> None:
    said = read_response("chat", 200, reply)
    assert (said.text, said.failure) == (text, "")
    assert note in said.note
    assert bool(note) == bool(said.note)


@pytest.mark.parametrize(
    ("status", "reply", "failure"),
    [
        (200, dumped({"error": {"message": "no\ncredit", "code": 402}}), "no credit"),
        (200, dumped({"error": "out of order"}), "out of order"),
        (200, chat({"content": ""}, error={"message": "moved"}), "moved"),
        (200, dumped({"choices": [{"error": {"message": "upstream"}}]}), "upstream"),
        (200, dumped({"object": "list", "data": []}), "a reply without choices (it has object, data)"),
        (200, "<html>\x1b[31mhi</html>", "no JSON: <html> [31mhi</html>"),
        (200, "", "no JSON: an empty body"),
        (200, '{"id": "x", "cho', 'a reply that was cut off: {"id": "x", "cho'),
        (400, dumped({"error": {"message": "json_schema is not supported"}}), "json_schema is not supported"),
        (422, dumped({"detail": [{"msg": "field required"}]}), "field required"),
        (502, "<html>Bad gateway</html>", "Bad gateway"),
    ],
)
def test_what_is_no_answer_says_so_in_the_words_of_the_service(status: int, reply: str, failure: str) -> None:
    assert failure in read_response("chat", status, reply).failure


def test_a_final_failure_is_known_also_within_a_reply_of_status_200() -> None:
    said = read_response("chat", 200, dumped({"error": {"message": "no credit", "code": 402}}))
    assert Failure(said.failure, said.status, said.code).is_final
    for code in ("insufficient_quota", None):
        failure = Failure("", 429, read_response("chat", 429, dumped({"error": {"type": code}})).code)
        assert failure.is_final == (not failure.passes) == (code is not None)
    assert not Failure("", 400).passes
    assert all(Failure("", status).passes for status in (0, 200, 408, 429, 500, 529))


@pytest.mark.parametrize(
    ("tokens", "cost"),
    [(900, 900), (90_000, 90_000), (99_000, 99_000), (101_000, 1000), (-5, 1000), ("900", 1000), (None, 1000)],
)
def test_a_bill_above_the_worst_case_is_believed_within_reason(tmp_path, tokens: object, cost: int) -> None:
    ledger = Ledger(tmp_path, "run")
    books = Books(Endpoint("chat", "u", "m", 9), Tariff(Price(input=0.001, output=0)), RequestPolicy(), ledger)
    (call,) = ledger.sent([("key", 1000)], 2e9)
    usage = {"prompt_tokens": tokens, "completion_tokens": 0}
    answer = books.settled(call, None, 200, chat({"content": "red"}, usage=usage), True)
    assert isinstance(answer, Answer)
    assert (answer.text, answer.cost) == ("red", cost)
    assert ledger.committed(ledger.writer) == (cost, 0)
    assert answer.usage.get("input_tokens", tokens) == tokens


def test_an_answer_of_an_older_version_is_read_whatever_its_text_is() -> None:
    for text, read in (([{"type": "text", "text": "red"}], "red"), ({"a": 1}, ""), ("red", "red")):
        answer = Answer.recorded({"text": text, "refused": False, "usage": {}, "raw": {}})
        assert answer.text == read
        assert answer.outcome(("red",))[0] == "unparsable"


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"retry-after": "150"}, 150, 150),
        ({"retry-after": "0.5"}, 0.5, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25, 0.25),
        ({"retry-after": "Fri, 31 Dec 2100 23:59:59 GMT"}, 1e8, 1e10),
        ({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}, 0, 0),
        ({"retry-after": "-5"}, 0, 0),
        ({"retry-after": "9" * 400}, math.inf, math.inf),
    ],
)
def test_retry_after_in_any_of_its_forms(headers: dict[str, str], low: float, high: float) -> None:
    found = retry_after(headers)
    assert found is not None
    assert low <= found <= high


@pytest.mark.parametrize("value", ["", "soon", "nan"])
def test_a_retry_after_that_says_nothing(value: str) -> None:
    assert retry_after({"retry-after": value}) is None


def test_rate_limits_are_kept() -> None:
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2.5s"}
    assert pause_seconds(headers) == 62.5
    assert pause_seconds(headers | {"x-ratelimit-remaining-requests": "3"}) == 0
    tokens = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}
    assert pause_seconds(headers | tokens) == 62.5
    assert pause_seconds(tokens) == 0.12
    assert pause_seconds(tokens | {"x-ratelimit-reset-tokens": "9h"}) == 120
