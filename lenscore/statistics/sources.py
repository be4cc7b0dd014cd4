"""The runs of a report: opens them, groups them by analyze run, and gives them distinct names."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lenscore.readings.lens_titles import title_of
from lenscore.shapes import model_path
from lenscore.statistics.costs import Costs, costs_of
from lenscore.statistics.file_names import file_name
from lenscore.statistics.judge_output_files import JudgeOutput
from lenscore.statistics.panel import agreement, decided
from lenscore.statistics.summary import Summary, summarise
from lenscore.statistics.word_lists import WordLists
from storage_layouts.errors import CorruptError, IncompleteError, InputError, MachineError
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts

if TYPE_CHECKING:  # of Pydantic, which takes long to load
    from lenscore.statistics.published_rates import Published

_LONGEST_LABEL = 4
"""Parts of a path in a label of a run."""


@dataclass(frozen=True)
class JudgeSource:
    """A judge run.

    Attributes:
        run: its folder.
        summary: its rates; ``summary.model`` is its label: the model, and more where several runs have the same model.
        verdicts: one decision of the judge or panel per question.
        agreement: of judges with each other and of repeated replies; empty for one judge without repeats.
        agreement_by_layer: the same for each layer.
        costs: of all answers.

    """

    run: RunFolder
    summary: Summary
    verdicts: pd.DataFrame
    agreement: pd.DataFrame
    agreement_by_layer: pd.DataFrame
    costs: Costs


@dataclass
class AnalyzeSource:
    """An analyze run, its label, and the judge and intervene runs on it."""

    results: LensResults
    label: str = ""
    judges: list[JudgeSource] = field(default_factory=list)
    interventions: list[RunFolder] = field(default_factory=list)

    @property
    def made_of(self) -> dict[str, Any] | None:
        """The flags of `lens train` (llm, vision, connector, seed, ...) that made the model; None for other models."""
        return self.results.run.require_plan().facts.get("made_of")

    @property
    def layer_notes(self) -> tuple[str, ...]:
        """What readers of rates by layer have to know: visual layer 0 without contextual layer 0."""
        searched = self.results.run.require_plan().facts.get("contextual_layers") or [0]
        if 0 in searched or 0 not in self.results.layers:
            return ()
        return (
            f"Visual layer 0 was looked up in contextual layers {min(searched)} to {max(searched)}, without layer 0. "
            "States of a connector that resemble input embeddings have their neighbours there, so low rates of "
            "LatentLens at layer 0 may be those of the store; `lens extract --layers 0,...` adds layer 0.",
        )

    @property
    def layers_shown(self) -> str:
        """The visual layers, and which of them is the output of the last block."""
        results = self.results
        last = f" ({results.depth}: the output of the last block)" if results.depth in results.layers else ""
        return ", ".join(map(str, results.layers)) + last

    @property
    def depth(self) -> int | None:
        """The number of blocks of the language model; None if an older run has no record of it."""
        if self.results.depth is not None:
            return self.results.depth
        # These settings include the last layer.
        asked = str(self.results.run.config.get("layers", "")).replace(" ", "").split(",")
        return max(self.results.layers) + 1 if {"paper", "all", "-1"} & set(asked) else None


@dataclass(frozen=True)
class Sources:
    """The input of a report.

    Attributes:
        analyses: analyze runs with their judge runs.
        others: runs of the stages extract and train.
        word_lists: properties of words.
        published: a table of published rates to compare with.
        judge_outputs: rates in judge outputs of latentlens.
        left_out: runs, or parts of runs, that cannot be reported, and why; one line each.

    """

    analyses: tuple[AnalyzeSource, ...]
    others: tuple[RunFolder, ...] = ()
    word_lists: WordLists = field(default_factory=WordLists.read)
    published: Published | None = None
    judge_outputs: tuple[JudgeOutput, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def judged(self) -> list[tuple[AnalyzeSource, JudgeSource]]:
        """Every judge run, paired with its analyze run."""
        return [(source, judge) for source in self.analyses for judge in source.judges]

    def identity(self) -> list[dict[str, Any]]:
        """The run ids, for report.json."""
        analyses = [
            {"analyze": source.results.run.run_id, "judges": [judge.run.run_id for judge in source.judges]}
            | ({"interventions": [run.run_id for run in source.interventions]} if source.interventions else {})
            for source in self.analyses
        ]
        return analyses + [{run.stage: run.run_id} for run in self.others]


def read_sources(paths: Sequence[Path], unusable: Mapping[Path, str] | None = None) -> Sources:
    """Open runs in the given order. Of several copies of a run, the first usable one counts.

    Damaged and incomplete runs are left out, and so is LatentLens of a run whose store is damaged or incomplete;
    `Sources.left_out` gives the reasons. Moved or damaged results and stores are replaced by a copy in ``paths``.

    Args:
        paths: folders of runs of any stage.
        unusable: folders of damaged runs and stores, and the error of each.

    Raises:
        InputError: there is no path, a path is not a run folder, or no run can be reported.

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
    reading.name()
    return Sources(tuple(reading.analyses.values()), tuple(reading.others), left_out=tuple(reading.left_out))


class _Reading:
    """The runs that were opened so far, and what is left out of the report."""

    def __init__(self, unusable: Mapping[Path, str]) -> None:
        self.unusable = unusable
        self.runs: dict[str, list[RunFolder]] = {}
        self.analyses: dict[str, AnalyzeSource] = {}
        self.judges: list[tuple[RunFolder, AnalyzeSource, pd.DataFrame]] = []
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
        """Add a run, and the analyze run that it was made of. Returns False if it cannot be used."""
        try:
            self._refuse(run.path)
            if run.stage == "analyze":
                self._analysis(LensResults.open(run.path))
            elif run.stage == "judge":
                results, verdicts = self._results_of(run), read_verdicts(run)
                self.judges.append((run, self._analysis(results), verdicts))
            elif run.stage == "intervene":
                run.require_complete()
                self._analysis(self._results_of(run)).interventions.append(run)
            else:
                self.others.append(run)
        except InputError as error:
            self._leave_out(run.path, error)
            return False
        return True

    def name(self) -> None:
        """Label the analyze runs, then count and label the judge runs."""
        analyses = list(self.analyses.values())
        for source, label in zip(analyses, _labels(analyses), strict=True):
            source.label = label
        labels = _judge_labels([(run, source.label) for run, source, _ in self.judges])
        for (run, source, verdicts), label in zip(self.judges, labels, strict=True):
            source.judges.append(_judge_source(run, source.results, verdicts, label))

    def _results_of(self, run: RunFolder) -> LensResults:
        """The analyze run that a run was made of: at its recorded path, or else among the given runs."""
        expected = run.inputs["results"]
        places = [Path(expected["path"]), *(copy.path for copy in self.runs.get(expected["run_id"], ()))]
        for place in places[:-1]:
            # A damaged, moved or unfinished copy is no error while another copy is left.
            with contextlib.suppress(InputError):
                return self._results_at(run, place)
        return self._results_at(run, places[-1])

    def _results_at(self, run: RunFolder, path: Path) -> LensResults:
        expected = run.inputs["results"]
        self._refuse(path)
        try:
            results = LensResults.open(path)
        except (CorruptError, IncompleteError, MachineError):
            raise
        except InputError as error:
            raise InputError(
                f"{run.path} needs the run that it was made of, at {path} ({error}); was it moved? Name its folder too"
            ) from None
        if results.run.run_id != expected["run_id"]:
            raise InputError(
                f"{run.path}: was made of the run {expected['run_id']}, but {results.path} now holds "
                f"{results.run.run_id}; name the folder of that run too, or repeat the stage {run.stage} on the new one"
            )
        return results

    def _analysis(self, results: LensResults) -> AnalyzeSource:
        if results.run.run_id not in self.analyses:
            shards = (range(shard.first, shard.stop) for shard in results.run.require_plan().shards())
            if not any(results.geometry(images).column("error").null_count for images in shards):
                raise InputError(f"{results.path}: no image could be read, so there is nothing to report")
            self.analyses[results.run.run_id] = AnalyzeSource(results)
            self._find_store(results)
        return self.analyses[results.run.run_id]

    def _find_store(self, results: LensResults) -> None:
        """Find the store at its recorded path or among the given runs; else leave out the lenses that search it."""
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
    words, images = run.config["top_k"] or results.top_k, image_column(results, "sha256")
    summary = summarise(
        final, label, run.config["judge"], words, results.run_lenses, images, mean_layers=results.mean_layers
    )
    agreements = agreement(verdicts), agreement(verdicts, by_layer=True)
    return JudgeSource(run, summary, final, *agreements, costs_of(run, verdicts))


def image_column(results: LensResults, name: str) -> dict[int, Any]:
    """A column of the image table of an analyze run, by image id."""
    return dict(zip(*results.images().select(["image_id", name]).to_pydict().values(), strict=True))


def run_folders(sources: Sources) -> list[Path]:
    """The folders that a report reads: all its runs, and the stores of these."""
    analyses = [source.results for source in sources.analyses]
    stores = [results.store_path for results in analyses if results.store_path and results.needs_store]
    judges = [judge.run.path for _, judge in sources.judged]
    others = [*sources.others, *(run for source in sources.analyses for run in source.interventions)]
    return [*(results.path for results in analyses), *stores, *judges, *(run.path for run in others)]


def model_label(model: str) -> str:
    """A short name: the last part of a folder's path, the whole name on the Hub.

    ``olmo-clip/model`` is "olmo-clip", ``olmo-clip/models/step-100`` is "olmo-clip step-100".
    """
    path = Path(model)
    if path == model_path():
        return "shapes"
    if not (path.is_absolute() or path.exists()):
        return model
    name = path.parent.name if path.name == "model" and path.parent.name else path.name
    if path.parent.name == "models" and path.name.startswith("step-"):
        name = f"{path.parent.parent.name} {path.name}".strip()
    return _decodable(name)


def run_labels(runs: Sequence[RunFolder]) -> list[str]:
    """For each run the shortest unique end of its path (``olmo/store.zarr``), or else its name and run id."""
    paths = [Path(_decodable(str(run.path.resolve()))).parts for run in runs]
    for length in range(1, _LONGEST_LABEL + 1):
        labels = ["/".join(parts[-length:]) for parts in paths]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{parts[-1]} {run.run_id[:6]}" for parts, run in zip(paths, runs, strict=True)]


def _decodable(name: str) -> str:
    """A file name with escapes for bytes that are not UTF-8."""
    return name.encode(errors="backslashreplace").decode()


def _labels(sources: Sequence[AnalyzeSource]) -> list[str]:
    """The model; of runs with the same model also the store, its folder, or the run id."""
    stores = [Path((source.results.run.inputs.get("store") or {}).get("path", "")) for source in sources]
    labels = [model_label(source.results.model) for source in sources]
    ids = [source.results.run.run_id[:6] for source in sources]
    for more in ([store.stem for store in stores], [store.parent.name for store in stores], ids):
        fuller = _told_apart(labels, more)
        # A word that all runs share is left out.
        if len(set(map(_as_file, fuller))) > len(set(map(_as_file, labels))):
            labels = fuller
    return labels


def _judge_labels(runs: Sequence[tuple[RunFolder, str]]) -> list[str]:
    """The label of the analyze run; of several judge runs on it also the judge, the number of words, or the run id."""
    labels = [label for _, label in runs]
    labels = _told_apart(labels, [run.config["judge"] for run, _ in runs])
    labels = _told_apart(labels, [f"top {run.config['top_k']}" if run.config["top_k"] else "" for run, _ in runs])
    return _told_apart(labels, [run.run_id[:6] for run, _ in runs])


def _told_apart(labels: Sequence[str], more: Sequence[str]) -> list[str]:
    """The labels; those that occur more than once with an addition."""
    files = Counter(map(_as_file, labels))
    return [
        label if files[_as_file(label)] == 1 else f"{label} {addition}".strip()
        for label, addition in zip(labels, more, strict=True)
    ]


def _as_file(label: str) -> str:
    """The file name of a label on a file system that ignores case; it must differ between labels."""
    return file_name(label).casefold()
