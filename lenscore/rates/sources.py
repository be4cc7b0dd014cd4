"""The runs behind a report: opened, brought together by analyze run, and given names that tell them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from lenscore.rates.costs import Costs, costs_of
from lenscore.rates.file_names import file_name
from lenscore.rates.judge_outputs import JudgeOutput
from lenscore.rates.panel import agreement, decided
from lenscore.rates.published import Published
from lenscore.rates.summary import Summary, summarise
from lenscore.rates.word_lists import WordLists
from lenscore.shapes import model_path
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts


@dataclass(frozen=True)
class JudgeSource:
    """A judge run. ``summary.model`` is its label: the model, and more where that does not tell runs apart.

    ``verdicts`` are what its judge or panel decided, one a question; ``agreement`` is how far judges agree with each
    other and with themselves (empty for one judge that was asked once), ``agreement_by_layer`` the same for each layer;
    ``costs`` are those of all answers.
    """

    run: RunFolder
    summary: Summary
    verdicts: pd.DataFrame
    agreement: pd.DataFrame
    agreement_by_layer: pd.DataFrame
    costs: Costs

    @property
    def top_k(self) -> int | None:
        """How many of a lens's words were judged; None for all that the results hold."""
        return self.run.config["top_k"]


@dataclass
class AnalyzeSource:
    """An analyze run, the judge runs on it, and how it is called."""

    results: LensResults
    label: str = ""
    judges: list[JudgeSource] = field(default_factory=list)

    @property
    def made_of(self) -> dict[str, Any] | None:
        """Which LLM, vision encoder and connector the model is made of, with the settings of its training.

        Keys are the flags of `lens train` (llm, vision, connector, seed, ...). None for a model that was not made by
        `lens train`.
        """
        return self.results.run.require_plan().facts.get("made_of")

    def identity(self) -> dict[str, Any]:
        """The run ids, for report.json."""
        return {"analyze": self.results.run.run_id, "judges": [judge.run.run_id for judge in self.judges]}


@dataclass(frozen=True)
class Sources:
    """All that a report is made of.

    Attributes:
        analyses: analyze runs with the judge runs on them.
        others: runs of the stages extract and train that were named too.
        word_lists: what is known of words.
        published: a table of published rates to compare with.
        judge_outputs: rates in judge outputs of latentlens.

    """

    analyses: tuple[AnalyzeSource, ...]
    others: tuple[RunFolder, ...] = ()
    word_lists: WordLists = field(default_factory=WordLists.read)
    published: Published | None = None
    judge_outputs: tuple[JudgeOutput, ...] = ()

    def identity(self) -> list[dict[str, Any]]:
        """The run ids, for report.json."""
        return [source.identity() for source in self.analyses] + [{run.stage: run.run_id} for run in self.others]


def read_sources(paths: Sequence[Path]) -> Sources:
    """Open runs, in the order given; a run that is named twice counts once.

    Raises InputError for no run, or a judge run whose results are gone or replaced.
    """
    if not paths:
        raise InputError("report: name at least one run folder")
    opened = {run.run_id: run for run in map(RunFolder.open, paths)}
    given = {run.run_id: run.path for run in opened.values() if run.stage == "analyze"}
    sources: dict[str, AnalyzeSource] = {}
    judge_runs: dict[str, tuple[RunFolder, AnalyzeSource]] = {}
    others = []
    for run in opened.values():
        if run.stage == "judge":
            judge_runs[run.run_id] = run, _source(sources, _judged_results(run, given))
        elif run.stage == "analyze":
            _source(sources, LensResults.open(run.path))
        else:
            others.append(run)
    _name(list(sources.values()))
    for (run, source), label in zip(judge_runs.values(), _judge_labels(list(judge_runs.values())), strict=True):
        verdicts = read_verdicts(run)
        final = decided(verdicts)
        images = dict(zip(*source.results.images().select(["image_id", "sha256"]).to_pydict().values(), strict=True))
        words = run.config["top_k"] or source.results.top_k
        summary = summarise(final, label, run.config["judge"], words, source.results.lenses, images)
        agreements = agreement(verdicts), agreement(verdicts, by_layer=True)
        source.judges.append(JudgeSource(run, summary, final, *agreements, costs_of(run, verdicts)))
    return Sources(tuple(sources.values()), tuple(others))


def model_label(model: str) -> str:
    """A short name for people: the last part of a folder's path, the whole name of a model of the Hub.

    `lens train --out olmo-clip` writes ``olmo-clip/model``: such a folder is called by the one it is in.
    """
    path = Path(model)
    if path == model_path():
        return "shapes"
    if not (path.is_absolute() or path.exists()):
        return model
    name = path.parent.name if path.name == "model" and path.parent.name else path.name
    return name.encode(errors="backslashreplace").decode()  # bytes that are no UTF-8


def _judged_results(run: RunFolder, given: dict[str, Path]) -> LensResults:
    """The analyze run that a judge run is about: where it was then, or among the given runs."""
    expected = run.inputs["results"]
    results = LensResults.open(given.get(expected["run_id"], Path(expected["path"])))
    if results.run.run_id != expected["run_id"]:
        raise InputError(
            f"{run.path}: judged the run {expected['run_id']}, but {results.path} now holds {results.run.run_id}; "
            "name the folder of the judged run too, or judge the new one"
        )
    return results


def _source(sources: dict[str, AnalyzeSource], results: LensResults) -> AnalyzeSource:
    return sources.setdefault(results.run.run_id, AnalyzeSource(results))


def _name(sources: list[AnalyzeSource]) -> None:
    """The model; where several runs have the same, the store that they searched too, or else the run."""
    labels = [model_label(source.results.model) for source in sources]
    for more in (_store_name, _store_folder, lambda source: source.results.run.run_id[:6]):
        files = Counter(map(_as_file, labels))
        fuller = [
            label if files[_as_file(label)] == 1 else f"{label} {more(source)}".strip()
            for source, label in zip(sources, labels, strict=True)
        ]
        # A word that all of them share would tell nothing apart.
        if len(set(map(_as_file, fuller))) > len(files):
            labels = fuller
    for source, label in zip(sources, labels, strict=True):
        source.label = label


def _store_name(source: AnalyzeSource) -> str:
    return Path((source.results.run.inputs.get("store") or {}).get("path", "")).stem


def _store_folder(source: AnalyzeSource) -> str:
    return Path((source.results.run.inputs.get("store") or {}).get("path", "")).parent.name


def _judge_labels(runs: list[tuple[RunFolder, AnalyzeSource]]) -> list[str]:
    """The model's name if one judge run is on it; else the judge is added, and if need be its top k, and the run."""
    labels = [source.label for _, source in runs]
    for more in (
        lambda run: run.config["judge"],
        lambda run: f"top {run.config['top_k']}" if run.config["top_k"] else "",
        lambda run: run.run_id[:6],
    ):
        files = Counter(map(_as_file, labels))
        labels = [
            label if files[_as_file(label)] == 1 else f"{label} {more(run)}".strip()
            for label, (run, _) in zip(labels, runs, strict=True)
        ]
    return labels


def _as_file(label: str) -> str:
    """What may not be the same for two labels: their files, also where upper and lower case are one."""
    return file_name(label).casefold()
