"""A judge's replies about the items of a human study, from a judge run or a file in the published format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lenscore.human_study.study_files import Candidate, Item, read_json
from lenscore.statistics.judge_output_files import WORD_LISTS, outcome_of
from lenscore.statistics.panel import decided
from lenscore.statistics.sources import image_column
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts


@dataclass(frozen=True)
class JudgeReply:
    """A judge's reply about an item of a study; ``outcome`` is that of storage_layouts.verdicts."""

    item: str
    judge: str
    outcome: str


def read_replies(path: Path, items: dict[str, Item]) -> tuple[list[JudgeReply], dict[str, list[str]]]:
    """The replies about the items in a judge run or a file, and the unmatched names by reason.

    Of repeated replies the first one counts, as in rates; a panel is a further judge beside its members. The verdicts
    of a run match an item by run, image, patch, layer and lens if data.json has these (as that of `lens annotate`
    does), else by file name, patch and candidates.
    """
    return _of_run(RunFolder.open(path, "judge"), items) if path.is_dir() else _of_file(path, items)


def judged_results(run: RunFolder) -> LensResults:
    """The analyze run of a judge run. Raises InputError if it was deleted or replaced."""
    expected = run.inputs["results"]
    results = LensResults.open(expected["path"])
    if results.run.run_id != expected["run_id"]:
        raise InputError(f"{run.path}: judged the run {expected['run_id']}, but {results.path} now holds another one")
    return results


def _of_file(path: Path, items: dict[str, Item]) -> tuple[list[JudgeReply], dict[str, list[str]]]:
    """{results: [{instance_id, candidates, raw_candidates, gpt_response: {interpretable, *_words, reasoning}}]}.

    If present, ``raw_candidates`` has the candidates of the study, and ``candidates`` the whole words for the judge.
    """
    content = read_json(path)
    replies: list[JudgeReply] = []
    unmatched: dict[str, list[str]] = {}
    try:
        for result in content["results"]:
            name = str(result["instance_id"])
            if name not in items:
                unmatched.setdefault("judged, but not in data.json", []).append(name)
            elif not _same(
                items[name].candidates,
                Candidate.all_of(result.get("raw_candidates") or result.get("candidates") or []),
            ):
                unmatched.setdefault("judged with other candidates than people saw", []).append(name)
            else:
                response = result.get("gpt_response")
                outcome = "failed" if response is None and result.get("error") else outcome_of(response)
                replies.append(JudgeReply(name, path.name, outcome))
                for kind in _oddities(response, items[name], outcome):
                    unmatched.setdefault(kind, []).append(name)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: holds no judge replies (no usable {error}); expected {{results: [{{instance_id, candidates, "
            "gpt_response: {interpretable, concrete_words, abstract_words, global_words, reasoning}}]}, or a judge run"
        ) from None
    return replies, unmatched


def _oddities(response: Any, item: Item, outcome: str) -> Iterator[str]:
    if outcome not in ("yes", "no"):
        return
    said = response.get("interpretable")
    if isinstance(said, bool) and said != (outcome == "yes"):
        yield "judged with lists that contradict the field interpretable; the lists count"
    words = [str(word) for name in WORD_LISTS for word in response.get(name) or []]
    if words and not any(map(item.offers, words)):
        yield "judged interpretable by words alone that are no candidates; counted as yes, as published"


def _of_run(run: RunFolder, items: dict[str, Item]) -> tuple[list[JudgeReply], dict[str, list[str]]]:
    verdicts = read_verdicts(run)
    own = verdicts[verdicts["control"] == ""]
    first = own[own["repeat"] == 0]  # as in rates
    judged = pd.concat([first, decided(own)]) if first["judge"].nunique() > 1 else first
    results_run = run.inputs["results"]["run_id"]
    named = _by_name(items)
    paths = image_column(judged_results(run), "path") if named else {}
    exact = {_key(item.facts): item for item in items.values() if item.facts.get("run") == results_run}
    replies: list[JudgeReply] = []
    unmatched: dict[str, list[str]] = {}
    for line in judged.to_dict("records"):
        place = line["image_id"], line["view"], line["row"], line["col"]
        candidates = [Candidate.of(word) for word in line["candidates"]]
        image = Path(paths.get(line["image_id"], "")).name
        found = [one for one in named.get((image, *place[2:]), []) if _same(one.candidates, candidates)]
        item = exact.get((*place, line["layer"], line["lens"]))
        if item is not None and _same(item.candidates, candidates):
            found.append(item)
        elif item is not None:
            unmatched.setdefault("judged with other candidates than people saw", []).append(item.id)
        replies += [JudgeReply(one.id, line["judge"], line["outcome"]) for one in found]
    return replies, unmatched


def _key(facts: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(facts.get(name) for name in ("image_id", "view", "patch_row", "patch_col", "layer", "lens"))


def _by_name(items: dict[str, Item]) -> dict[tuple[str, int, int], list[Item]]:
    """The items that `lens annotate` did not make, by the image's file name and the patch."""
    named: dict[tuple[str, int, int], list[Item]] = {}
    for item in items.values():
        facts = item.facts
        if "run" not in facts:
            for name in {str(facts.get(key, "")).rpartition("/")[2] for key in ("image_url", "image_file")} - {""}:
                named.setdefault((name, facts.get("patch_row", -1), facts.get("patch_col", -1)), []).append(item)
    return named


def _same(asked: Sequence[Candidate], judged: Sequence[Candidate]) -> bool:
    """Whether these are the same candidates, in any order. A reply without candidates matches."""
    return not judged or all(
        any(one.forms & other.forms for other in others)
        for some, others in ((asked, judged), (judged, asked))
        for one in some
    )
