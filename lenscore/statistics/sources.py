"""The runs behind a report: opened, brought together by analyze run, and given names that tell them apart."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from lenscore.readings.lens_titles import title_of
from lenscore.shapes import model_path
from lenscore.statistics.costs import Costs, costs_of
from lenscore.statistics.file_names import file_name
from lenscore.statistics.judge_output_files import JudgeOutput
from lenscore.statistics.panel import agreement, decided
from lenscore.statistics.published_rates import Published
from lenscore.statistics.summary import Summary, summarise
from lenscore.statistics.word_lists import WordLists
from storage_layouts.errors import CorruptError, IncompleteError, InputError, MachineError
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
        left_out: what of the named runs cannot be reported, and why; one line each.
        judge_outputs: rates in judge outputs of latentlens.

    """

    analyses: tuple[AnalyzeSource, ...]
    others: tuple[RunFolder, ...] = ()
    word_lists: WordLists = field(default_factory=WordLists.read)
    published: Published | None = None
    judge_outputs: tuple[JudgeOutput, ...] = ()
    left_out: tuple[str, ...] = ()

    def identity(self) -> list[dict[str, Any]]:
        """The run ids, for report.json."""
        return [source.identity() for source in self.analyses] + [{run.stage: run.run_id} for run in self.others]


def read_sources(paths: Sequence[Path], unusable: Mapping[Path, str] | None = None) -> Sources:
    """Open runs, in the order given; a run that is named twice counts once, as its first copy that can be used.

    A run that is damaged or not complete is left out, and so is LatentLens of a run whose store is; `Sources.left_out`
    says why. Results and stores that were moved or damaged are found if a copy is named too.

    Args:
        paths: folders of runs of any stage.
        unusable: folders of runs and stores that are known to be damaged, and what is wrong with them.

    Raises:
        InputError: no run at all, a folder that is not a run, or no run with anything to report.

    """
    if not paths:
        raise InputError("report: name at least one run folder")
    reading = _Reading({path.resolve(): why for path, why in (unusable or {}).items()})
    for path in paths:
        reading.open(path)
    for copies in reading.runs.values():
        any(reading.take(run) for run in copies)  # up to the first that can be used
    if not (reading.analyses or reading.others):
        if len(reading.errors) == 1:
            raise reading.errors[0]
        raise InputError("\n".join(["no run can be reported:", *reading.left_out]))
    _name(list(reading.analyses.values()))
    reading.add_judges()
    return Sources(tuple(reading.analyses.values()), tuple(reading.others), left_out=tuple(reading.left_out))


class _Reading:
    """The runs of a report as they are opened one after the other, and what is left out of it."""

    def __init__(self, unusable: Mapping[Path, str]) -> None:
        self.unusable = unusable
        self.runs: dict[str, list[RunFolder]] = {}
        self.analyses: dict[str, AnalyzeSource] = {}
        self.judges: list[tuple[RunFolder, AnalyzeSource]] = []
        self.verdicts: list[pd.DataFrame] = []
        self.others: list[RunFolder] = []
        self.left_out: list[str] = []
        self.errors: list[InputError] = []

    def open(self, path: Path) -> None:
        """Open a run folder of any stage."""
        try:
            run = RunFolder.open(path)
        except (CorruptError, IncompleteError, MachineError) as error:
            self._leave_out(path, error)
        else:
            copies = self.runs.setdefault(run.run_id, [])
            if not any(copy.path.resolve() == path.resolve() for copy in copies):
                copies.append(run)

    def take(self, run: RunFolder) -> bool:
        """Put a run where it belongs, if it can be used; a judge run brings its analyze run along."""
        try:
            self._refuse(run.path)
            if run.stage == "analyze":
                self._analysis(LensResults.open(run.path))
            elif run.stage == "judge":
                results, verdicts = self._judged_results(run), read_verdicts(run)
                self.judges.append((run, self._analysis(results)))
                self.verdicts.append(verdicts)
            else:
                self.others.append(run)
        except InputError as error:
            self._leave_out(run.path, error)
            return False
        return True

    def add_judges(self) -> None:
        """Count the verdicts of the judge runs, once all runs have their names."""
        labels = _judge_labels(self.judges)
        for (run, source), verdicts, label in zip(self.judges, self.verdicts, labels, strict=True):
            source.judges.append(_judge_source(run, source.results, verdicts, label))

    def _judged_results(self, run: RunFolder) -> LensResults:
        """The analyze run that a judge run is about: where it was then, or else among the given runs."""
        expected = run.inputs["results"]
        places = [Path(expected["path"]), *(copy.path for copy in self.runs.get(expected["run_id"], ()))]
        for place in places[:-1]:
            # It may be damaged, moved, or still being planned, and another copy is named.
            with contextlib.suppress(InputError):
                return self._judged_at(run, place)
        return self._judged_at(run, places[-1])

    def _judged_at(self, run: RunFolder, path: Path) -> LensResults:
        expected = run.inputs["results"]
        self._refuse(path)
        try:
            results = LensResults.open(path)
        except (CorruptError, IncompleteError, MachineError):
            raise
        except InputError as error:
            raise InputError(
                f"{run.path} needs the run that it judged, at {path} ({error}); was it moved? Name its folder too"
            ) from None
        if results.run.run_id != expected["run_id"]:
            raise InputError(
                f"{run.path}: judged the run {expected['run_id']}, but {results.path} now holds "
                f"{results.run.run_id}; name the folder of the judged run too, or judge the new one"
            )
        return results

    def _analysis(self, results: LensResults) -> AnalyzeSource:
        if results.run.run_id not in self.analyses:
            self.analyses[results.run.run_id] = AnalyzeSource(results)
            self._find_store(results)
        return self.analyses[results.run.run_id]

    def _find_store(self, results: LensResults) -> None:
        """The store where it was or where it is named; without one the lenses that search it are left out."""
        if results.store_path is None or not results.needs_store:
            return
        copies = self.runs.get(results.run.inputs["store"].get("run_id"), [])
        for place in (results.store_path, *(copy.path for copy in copies)):
            results.store_path = place
            try:
                self._refuse(place)
                results.store()
            except InputError as error:
                why = error
            else:
                return
        gone = [title_of(lens) for lens in results.lenses if lens in results.store_lenses]
        results.leave_out(*results.store_lenses)
        self._leave_out(results.path, why, what=f"{' and '.join(gone)} of ")

    def _refuse(self, folder: Path) -> None:
        if why := self.unusable.get(folder.resolve()):
            raise InputError(why)

    def _leave_out(self, path: Path, error: InputError, what: str = "") -> None:
        self.errors.append(error)
        self.left_out.append(f"{what}{path.resolve()}: {error}")


def _judge_source(run: RunFolder, results: LensResults, verdicts: pd.DataFrame, label: str) -> JudgeSource:
    final = decided(verdicts)
    images = dict(zip(*results.images().select(["image_id", "sha256"]).to_pydict().values(), strict=True))
    words = run.config["top_k"] or results.top_k
    summary = summarise(final, label, run.config["judge"], words, results.run_lenses, images)
    agreements = agreement(verdicts), agreement(verdicts, by_layer=True)
    return JudgeSource(run, summary, final, *agreements, costs_of(run, verdicts))


def run_folders(sources: Sources) -> list[Path]:
    """The folders that a report reads: of all its runs, and of the stores that they need."""
    analyses = [source.results for source in sources.analyses]
    stores = [results.store_path for results in analyses if results.store_path and results.needs_store]
    judges = [judge.run.path for source in sources.analyses for judge in source.judges]
    return [*(results.path for results in analyses), *stores, *judges, *(run.path for run in sources.others)]


def model_label(model: str) -> str:
    """A short name for people: the last part of a folder's path, the whole name of a model of the Hub.

    `lens train --out olmo-clip` writes ``olmo-clip/model``: such a folder is called by the one it is in, and
    ``olmo-clip/models/step-100`` is "olmo-clip step-100".
    """
    path = Path(model)
    if path == model_path():
        return "shapes"
    if not (path.is_absolute() or path.exists()):
        return model
    name = path.parent.name if path.name == "model" and path.parent.name else path.name
    if path.parent.name == "models" and path.name.startswith("step-"):
        name = f"{path.parent.parent.name} {path.name}".strip()
    return name.encode(errors="backslashreplace").decode()  # bytes that are no UTF-8


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
