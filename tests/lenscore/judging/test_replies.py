from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenscore.judging.judges.shapes_truth import fitting_words
from lenscore.judging.replies import Reply, read_reply
from lenscore.readings.words import folded

CANDIDATES = ("Dog", "red", "a [car] park", "\ufffd", "[", "dog")


def reply(concrete=(), abstract=(), global_=()) -> str:
    lists = {"concrete_words": list(concrete), "abstract_words": list(abstract), "global_words": list(global_)}
    return json.dumps({"reasoning": "a dog"} | lists)


def test_interpretable_means_that_any_list_holds_a_candidate() -> None:
    assert read_reply(reply(), CANDIDATES).outcome == "no"
    for lists in (("red",), ()), ((), ("red",)):
        assert read_reply(reply(*lists), CANDIDATES).outcome == "yes"
    found = read_reply(reply(["DOG", " red ", "red"], ["a car park"], ["\ufffd", '"["']), CANDIDATES)
    assert (found.concrete, found.abstract, found.global_) == (("Dog", "red"), ("a [car] park",), ("\ufffd", "["))
    assert found.fitting == ("Dog", "red", "a [car] park", "\ufffd", "[")
    assert found.dropped == ()


def test_words_that_were_not_asked_about_are_dropped_and_counted() -> None:
    found = read_reply(reply(["cat", "dogs"], ["car"], [""]), CANDIDATES)
    assert found.outcome == "no"
    assert found.dropped == ("cat", "dogs", "car", "")
    assert read_reply(reply(["cat", "red"]), CANDIDATES).dropped == ("cat",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot help with that.",
        reply()[:-1],
        "[]",
        "null",
        reply().replace("global_words", "globals"),
        reply().replace("}", ', "interpretable": true}'),
        reply().replace('"concrete_words": []', '"concrete_words": "Dog"'),
        reply().replace('"concrete_words": []', '"concrete_words": [1]'),
        reply() + reply(),
        f"Either {reply(['red'])} or {reply()}.",
        f"<think>It may be {reply(['red'])}, but",
        f"<think>{reply(['red'])}</think> It is red.",
        '{"reasoning": ' * 5000,
    ],
)
def test_what_is_no_reply_is_unparsable_and_never_no(text: str) -> None:
    assert read_reply(text, CANDIDATES).outcome == "unparsable"


DRAFT = reply(["Dog"])


@pytest.mark.parametrize(
    "around",
    [
        "```json\n{}\n```\n",
        "Here is my answer:\n```json\n{}\n```\nI hope this helps.",
        "The words {{red, dog}} fit, so: {} Done.",
        '<think>Is it {{"reasoning": hm?</think>\n{}',
        f"<think>First {DRAFT.replace('{', '{{').replace('}', '}}')}, no.</think>{{}}",
        f"so {DRAFT.replace('{', '{{').replace('}', '}}')}</THINK>\n\n```\n{{}}\n```",
        "[THINK]red[/THINK]{}",
        "◁think▷red◁/think▷ {}",
    ],
)
def test_what_stands_around_the_reply_is_no_part_of_it(around: str) -> None:
    said = json.dumps({"reasoning": "</think> {", "concrete_words": ["red"], "abstract_words": [], "global_words": []})
    for one in (said, reply(["red"]), json.dumps(json.loads(reply(["red"])), indent=2, sort_keys=True)):
        found = read_reply(around.format(one), CANDIDATES)
        assert (found.outcome, found.concrete) == ("yes", ("red",))


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_words_are_compared_as_they_read_and_not_as_they_are_encoded(form: str) -> None:
    words = ("Café", "ἀρχῇ", "각", "Ångström", "STRASSE")
    for candidates in (words, tuple(unicodedata.normalize("NFD", word) for word in words)):
        found = read_reply(reply([unicodedata.normalize(form, word) for word in words]), candidates)
        assert (found.outcome, found.concrete, found.dropped) == ("yes", candidates, ())
        assert fitting_words(candidates, frozenset(unicodedata.normalize(form, word) for word in words)) == candidates
    assert read_reply(reply(["Cafe"]), words).dropped == ("Cafe",)


def test_the_schema_is_strict() -> None:
    schema = Reply.model_json_schema()
    assert schema["additionalProperties"] is False
    assert schema["required"] == list(schema["properties"])
    assert next(iter(schema["properties"])) == "reasoning"


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_no_text_breaks_the_reading(text: str) -> None:
    assert read_reply(text, CANDIDATES).outcome == "unparsable"


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.data())
def test_every_candidate_that_is_copied_is_found(candidates: list[str], data) -> None:
    chosen = data.draw(st.lists(st.sampled_from(candidates), unique=True))
    found = read_reply(reply(chosen), candidates)
    assert found.dropped == ()
    # Candidates that differ only in case or spaces may stand for each other.
    assert {folded(word) for word in chosen} == {folded(word) for word in found.concrete}
