"""Verdicts of a judge run meet the items of a human study."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lenscore.human_study.judge_replies import JudgeReply, read_replies
from lenscore.human_study.study_files import Candidate, Item, read_study
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from storage_layouts.runs import Receipt, RunFolder
from storage_layouts.verdicts import Verdict, write_verdicts
from tests import synthetic_run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> LensResults:
    return synthetic_run.make_results(tmp_path_factory.mktemp("replies"), images=2, unreadable=False)


def judge_run(folder: Path, results: LensResults, verdicts: list[Verdict]) -> Path:
    inputs = {"results": {"path": str(results.path), "run_id": results.run.run_id}}
    run = RunFolder.create(folder, "judge", {"judge": "one,two"}, inputs)
    run.write_plan(1, 1, {}, {})
    name = "verdicts/part-00000.jsonl"
    run.write_receipt(Receipt(0, 1, {name: write_verdicts(folder / name, verdicts)}, {}))
    return folder


def verdict(judge: str, outcome: str, col: int = 3, control: str = "", repeat: int = 0, layer: int = 2) -> Verdict:
    words = ("Star", "a [cat] sleeps")
    return Verdict(1, 0, 2, col, layer, "latent", control, words, outcome, judge=judge, repeat=repeat)


def item(name: str, candidates: list[Any], **facts: Any) -> Item:
    place = {"patch_row": 2, "patch_col": 3}
    return Item(name, "m", tuple(map(Candidate.of, candidates)), place | facts)


def test_verdicts_find_their_items(results: LensResults, tmp_path: Path) -> None:
    exact = {"run": results.run.run_id, "image_id": 1, "view": 0, "layer": 2, "lens": "latent"}
    words = ["star", "a [cat] sleeps"]
    items = [
        item("exact", words, **exact),
        item("other layer", words, **exact | {"layer": 5}),
        item("other run", words, **exact | {"run": "0" * 16}),
        item("other words", ["star", "dog"], **exact | {"patch_col": 4}),
        item("published", [["a cat sleeps", " cat"], "STAR"], image_url="https://there/x/validation-00001.png"),
        item("published elsewhere", words, image_url="https://there/x/validation-00000.png"),
        item("published with others", ["star"], image_url="validation-00001.png"),
    ]
    verdicts = [
        verdict("one", "yes"),
        verdict("one", "no", repeat=1),
        verdict("one", "no", control="other-patch"),
        verdict("one", "yes", col=4),
        verdict("one", "refused", layer=0),
    ]
    run = judge_run(tmp_path / "judged", results, verdicts)
    replies, unmatched = read_replies(run, {one.id: one for one in items})
    # The published item says no layer: all of the judge's first replies about these words are its.
    assert replies == [
        JudgeReply("published", "one", "yes"),
        JudgeReply("exact", "one", "yes"),
        JudgeReply("published", "one", "refused"),
    ]
    assert unmatched == {"judged with other candidates than people saw": ["other words"]}


def test_a_panel_is_one_more_judge(results: LensResults, tmp_path: Path) -> None:
    exact = {"run": results.run.run_id, "image_id": 1, "view": 0, "layer": 2, "lens": "latent"}
    items = {
        name: item(name, ["star", "a [cat] sleeps"], **exact | {"patch_col": col}) for name, col in (("a", 3), ("b", 4))
    }
    said = {"one": ("yes", "no"), "two": ("yes", "refused"), "three": ("no", "yes")}
    verdicts = [
        verdict(judge, outcome, col)
        for col in (3, 4)
        for judge, outcomes in said.items()
        for outcome in [outcomes[col - 3]]
    ]
    replies, _ = read_replies(judge_run(tmp_path / "panel", results, verdicts), items)
    together = {reply.item: reply.outcome for reply in replies if reply.judge == "one,two,three"}
    assert together == {"a": "yes", "b": "tied"}
    assert len(replies) == 8


def published(folder: Path, *replies: dict[str, Any]) -> Path:
    path = folder / "human_study_llm_results.json"
    path.write_text(json.dumps({"total_instances": len(replies), "evaluated": len(replies), "results": replies}))
    return path


def test_published_replies_name_whole_words_where_people_saw_a_token_in_its_phrase(tmp_path: Path) -> None:
    shown = [["bicycles by a wall", "bicy"], ["house 3141", " 314"], ["all _blue_ Doors", "_"], ["Doors", "door"]]
    items = {name: item(name, shown) for name in ("raw", "words", "other", "foreign")}
    yes = {"gpt_response": {"concrete_words": ["bicycles"], "abstract_words": [], "global_words": []}}
    words = ["bicycles", "3141", "_blue_", "Doors"]
    path = published(
        tmp_path,
        # What the judge was asked about is a word that stands nowhere in the phrases; what people saw is said too.
        {"instance_id": "raw", "candidates": ["a", "b", "c"], "raw_candidates": shown} | yes,
        {"instance_id": "words", "candidates": words} | yes,
        {"instance_id": "other", "candidates": ["bicycles", "314", "wall"]} | yes,
        {"instance_id": "foreign", "candidates": words, "raw_candidates": [["a dog", "dog"]]} | yes,
    )
    replies, unmatched = read_replies(path, items)
    assert replies == [JudgeReply(name, path.name, "yes") for name in ("raw", "words")]
    assert unmatched == {"judged with other candidates than people saw": ["other", "foreign"]}


def test_odd_replies_are_no_answers(tmp_path: Path) -> None:
    given = {
        "failed": {"error": "Failed to load image"},
        "unparsable": {"gpt_response": {"concrete_words": "dog", "abstract_words": [], "global_words": []}},
        "no": {"gpt_response": {"concrete_words": [], "abstract_words": None, "interpretable": False}},
        "number": {"gpt_response": {"interpretable": 1}},
    }
    items = {name: item(name, ["dog"]) for name in given}
    path = published(tmp_path, *({"instance_id": name} | said for name, said in given.items()))
    replies, unmatched = read_replies(path, items)
    outcomes = {reply.item: reply.outcome for reply in replies}
    assert outcomes == {"failed": "failed", "unparsable": "unparsable", "no": "no", "number": "unparsable"}
    assert unmatched == {}
    path = published(tmp_path, {"instance_id": "no", "candidates": [7]})
    with pytest.raises(InputError, match=r"holds no judge replies \(no usable .*7.*\); expected") as refused:
        read_replies(path, items)
    assert "\n" not in str(refused.value)
    path = published(tmp_path, {"instance_id": "no", "candidates": "dog"})
    with pytest.raises(InputError, match="candidates: 'dog' is no list"):
        read_replies(path, items)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": "dog"}, "candidates: 'dog' is no list"),
        ({"candidates": [["a dog", 3]]}, r"candidate: \['a dog', 3\] is neither a word nor \[phrase, token\]"),
        ({"patch_row": [1]}, r"patch_row: \[1\] is no whole number"),
    ],
)
def test_odd_entries_of_a_study_are_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    entry = {"id": "a", "model": "m", "candidates": ["dog"], "patch_row": 1, "patch_col": 2}
    (tmp_path / "data.json").write_text(json.dumps([entry | change]))
    (tmp_path / "session.json").write_text(json.dumps({"userId": "u", "results": []}))
    with pytest.raises(InputError, match=f"data.json: .*{message}") as refused:
        read_study(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_path_that_is_no_study_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "made" / "study").mkdir(parents=True)
    (tmp_path / "made" / "study" / "data.json").write_text("[]")
    (tmp_path / "zipped").mkdir()
    archive = tmp_path / "zipped" / "interp_data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.json", "[]")
    (tmp_path / "empty").mkdir()
    for path, message in (
        (archive, "a zip archive; unzip it first, and name the folder with data.json"),
        (tmp_path / "zipped", "no data.json in it; if interp_data.zip is the study, unzip it first"),
        (tmp_path / "made", f"no data.json in it; did you mean {tmp_path / 'made' / 'study'}?"),
        (tmp_path / "made" / "study" / "data.json", "a file; expected the folder that holds data.json"),
        (tmp_path / "gone", "no such folder; expected"),
        (tmp_path / "empty", "no data.json in it; expected"),
    ):
        with pytest.raises(InputError, match=re.escape(f"{path}: {message}")):
            read_study(path)
