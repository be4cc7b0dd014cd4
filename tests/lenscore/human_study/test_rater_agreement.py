"""A small human study in the published format, with agreement worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from lenscore.human_study.judge_replies import read_replies
from lenscore.human_study.rater_agreement import Comparison, compare, label
from lenscore.human_study.study_files import read_study
from storage_layouts.errors import InputError

# By item: what its two or three annotators say, and what the judge says. a2 and b4 are ties.
SAID = {
    "a1": ("yy", "y"), "a2": ("yn", "y"), "a3": ("nn", "n"), "a4": ("nn", "y"), "a5": ("yy", "n"), "a6": ("y", "y"),
    "b1": ("nn", "n"), "b2": ("ynn", "n"), "b3": ("yy", "y"), "b4": ("ny", "n"),
}  # fmt: skip
PEOPLE = ("Ada", "Ben", "Cem")


def candidates(name: str) -> list[Any]:
    """Words for the model a; phrases with their tokens for the model b."""
    return (
        ["dog", "Cat ", "\n\n", "[]", "\ufffd"]
        if name[0] == "a"
        else [["two dogs run", " dogs"], ["a cat sleeps", "cat"]]
    )


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def session(user: str, answers: dict[str, list[str]], timestamp: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    results = [
        {
            "instanceId": name,
            "selectedWords": [{"word": word, "relation": "concrete"} for word in words],
            "noneSelected": not words,
        }
        for name, words in answers.items()
    ]
    return {"userId": user, "sessionId": f"s-{user}", "timestamp": timestamp, "results": results}


def reply(name: str, yes: bool) -> dict[str, Any]:
    lists = {"concrete_words": [], "abstract_words": [], "global_words": ["dog" if name[0] == "a" else "dogs"] * yes}
    return {
        "instance_id": name,
        "candidates": candidates(name),
        "gpt_response": {"interpretable": yes, "reasoning": "so"} | lists,
    }


@pytest.fixture
def human(tmp_path: Path) -> Path:
    folder = tmp_path / "human"
    items = [
        {"id": name, "model": f"model {name[0]}", "candidates": candidates(name), "patch_row": 1, "patch_col": 2}
        for name in SAID
    ]
    write(folder / "data.json", items)
    yes = {"a": ["cat"], "b": ["two dogs run"]}
    for n, person in enumerate(PEOPLE):
        answers = {name: yes[name[0]] if votes[n] == "y" else [] for name, (votes, _) in SAID.items() if len(votes) > n}
        write(folder / "results" / f"evaluation_{person}_1.json", session(person, answers))
    return folder


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    path = tmp_path / "replies.json"
    write(path, {"results": [reply(name, said == "y") for name, (_, said) in SAID.items()]})
    return path


def compared(human: Path, judge: Path, rule: Any = "majority") -> Comparison:
    study = read_study(human)
    return compare(study, *read_replies(judge, study.items), rule)


def test_agreement_is_as_worked_out_by_hand(human: Path, judge: Path) -> None:
    found = compared(human, judge)
    assert found.unmatched == {}
    assert found.outcomes == {"replies.json": {"yes": 5, "no": 5}}
    shown = [(line.model, line.n, line.human_yes, line.judge_yes) for line in found.agreements]
    assert shown == [("all", 10, 6, 5), ("model a", 6, 4, 4), ("model b", 4, 2, 1)]
    # In all 7 of 10 labels are equal, by chance 0.6 * 0.5 + 0.4 * 0.5 would be: kappa = (0.7 - 0.5) / (1 - 0.5).
    # Spearman of two yes/no labels is phi, from the four counts of the table of people by judge: 4 2 / 1 3.
    by_hand = {
        "all": (0.7, 0.4, (4 * 3 - 2 * 1) / math.sqrt(6 * 4 * 5 * 5)),
        "model a": (2 / 3, 0.25, (3 * 1 - 1 * 1) / math.sqrt(4 * 2 * 4 * 2)),
        "model b": (0.75, 0.5, (1 * 2 - 1 * 0) / math.sqrt(2 * 2 * 1 * 3)),
    }
    for line in found.agreements:
        assert (line.accuracy.value, line.kappa, line.spearman) == pytest.approx(by_hand[line.model])
    # any: a2, b2 and b4 are yes, so 6 equal and 7 * 5 by chance; unanimous: a2 and b4 are no, so 7 equal, 4 and 5 yes.
    assert compared(human, judge, "any").agreements[0].kappa == pytest.approx((0.6 - 0.5) / 0.5)
    assert compared(human, judge, "any").agreements[0].human_yes == 7
    unanimous = compared(human, judge, "unanimous").agreements[0]
    assert (unanimous.kappa, unanimous.human_yes) == (pytest.approx((0.7 - 0.5) / 0.5), 4)


def test_ties_are_yes_by_majority_only() -> None:
    tie, less = [True, False], [True, False, False]
    assert [label(tie, rule) for rule in ("majority", "any", "unanimous")] == [True, True, False]
    assert [label(less, rule) for rule in ("majority", "any", "unanimous")] == [False, True, False]


def test_what_does_not_match_is_named(human: Path, judge: Path) -> None:
    write(human / "results" / "late.json", session("Ada", {"a1": ["dog"], "gone": ["dog"]}, "2026-01-02T00:00:00Z"))
    write(human / "results" / "early.json", session("Ada", {"a3": ["dog"]}, "2025-01-02T00:00:00Z"))
    write(human / "more" / "dee.json", session("Dee", {"b1": ["horse"], "b2": ["dogs"]}))
    data = json.loads((human / "data.json").read_text())
    write(human / "data.json", [*data, data[0] | {"id": "a7"}])
    replies = json.loads(judge.read_text())["results"]
    del replies[3]  # a4
    replies[0]["candidates"] = ["dog", "horse"]  # a1
    replies[1]["gpt_response"] = None  # a2
    replies[2]["gpt_response"]["abstract_words"] = ["horse"]  # a3: no candidate, and against "interpretable"
    write(judge, {"results": [*replies, reply("a9", True)]})
    found = compared(human, judge)
    assert found.unmatched == {
        "answered more than once by one person; the latest answer counts": ["a3 by Ada", "a1 by Ada"],
        "answered, but not in data.json": ["gone by Ada"],
        "chosen, but not among the candidates": ["'horse' for b1 by Dee"],
        "answered by nobody": ["a7"],
        "judged with other candidates than people saw": ["a1"],
        "judged with lists that contradict the field interpretable; the lists count": ["a3"],
        "judged interpretable by words alone that are no candidates; counted as yes, as published": ["a3"],
        "judged, but not in data.json": ["a9"],
        "answered by people, but without a yes or no of replies.json": ["a2"],
        "answered by people, but not judged by replies.json": ["a1", "a4"],
    }
    assert found.outcomes["replies.json"]["unparsable"] == 1
    assert found.agreements[0].n == 7
    # b2 has now two yes of four: a tie. a3 keeps Ada's later no. A foreign word makes no yes.
    assert found.agreements[0].human_yes == len({"a5", "a6", "b2", "b3", "b4"})


def test_where_nothing_varies_nothing_is_invented(human: Path, judge: Path) -> None:
    write(judge, {"results": [reply(name, True) for name in ("a1", "a5", "b1")]})
    lines = {line.model: line for line in compared(human, judge).agreements}
    assert lines["model a"].accuracy.value == 1
    assert math.isnan(lines["model a"].kappa)
    assert math.isnan(lines["model a"].spearman)
    assert lines["all"].kappa == 0


def test_other_folders_and_files_are_one_clear_line(human: Path, judge: Path, tmp_path: Path) -> None:
    def refused(change: Callable[[], object], message: str) -> None:
        change()
        with pytest.raises(InputError) as error:
            compared(human, judge)
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    kept = judge.read_text()
    refused(lambda: judge.unlink(), "no such file")
    refused(lambda: judge.write_text("{"), "is no readable JSON")
    refused(lambda: write(judge, [1]), "holds no judge replies")
    refused(lambda: write(judge, {"results": []}), "no instance in common")
    judge.write_text(kept)
    refused(lambda: write(human / "results" / "x.json", {"hello": 1}), "is no session of a human study")
    (human / "results" / "x.json").unlink()
    data = json.loads((human / "data.json").read_text())
    refused(lambda: write(human / "data.json", [*data, data[0]]), "stands there more than once")
    refused(lambda: write(human / "data.json", [{"id": 1}]), "found an entry without a usable 'model'")
    (human / "data.json").unlink()
    refused(lambda: None, "no data.json in it; expected the folder that holds data.json")
    write(tmp_path / "empty" / "data.json", data)
    with pytest.raises(InputError, match="holds no answers"):
        read_study(tmp_path / "empty")


def test_chance_and_perfection() -> None:
    """Kappa of random labels is near 0 in a study of a thousand items, of equal ones 1."""
    from lenscore.human_study.judge_replies import JudgeReply
    from lenscore.human_study.study_files import Item, Study

    rng = np.random.default_rng(0)
    items = {f"{n}": Item(f"{n}", "m", (), {}) for n in range(1000)}
    study = Study(items, {name: {"u": bool(rng.random() < 0.3)} for name in items})
    random = [JudgeReply(name, "random", "yes" if rng.random() < 0.6 else "no") for name in items]
    same = [JudgeReply(name, "same", "yes" if votes["u"] else "no") for name, votes in study.answers.items()]
    by_judge = {line.judge: line for line in compare(study, random + same, {}, "majority").agreements}
    assert abs(by_judge["random"].kappa) < 0.1
    assert (by_judge["same"].kappa, by_judge["same"].spearman) == pytest.approx((1, 1))


def test_answers_about_one_image_are_not_counted_as_independent(human: Path, judge: Path) -> None:
    alone = compared(human, judge).agreements[0].accuracy
    assert (alone.value, alone.images) == (pytest.approx(0.7), 10)
    expected = binomtest(7, 10).proportion_ci(method="wilson")
    assert (alone.low, alone.high) == pytest.approx(tuple(expected))
    equal = [(said == "y") == label([vote == "y" for vote in votes], "majority") for votes, said in SAID.values()]
    items = json.loads((human / "data.json").read_text())
    for item, right in zip(items, equal, strict=True):  # one picture on which all is right, and one without anything
        item |= {"image_url": f"pictures/{'right' if right else 'wrong'}.jpg"}
    write(human / "data.json", items)
    alike = compared(human, judge).agreements[0].accuracy
    assert (alike.value, alike.images) == (pytest.approx(0.7), 2)
    assert alike.high - alike.low > alone.high - alone.low + 0.2
