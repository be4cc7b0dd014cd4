"""The file of a pipeline: its models, corpora and images, and the settings of every stage, as in `EXAMPLE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.analyze_settings import AnalyzeSettings
from jobs.base import Job, Settings, job_from
from jobs.extract_settings import ExtractSettings
from jobs.judge_settings import JudgeSettings
from jobs.tune_settings import TuneSettings
from launch.flags import flags_of, parse, read_yaml
from launch.settings_of_stores import with_first_store
from launch.stages import Launch, command_of
from storage_layouts.errors import InputError, nearest

EXAMPLE = """\
# What lens pipeline --config takes. Relative paths are relative to the folder where the command is given.
out: runs                       # a folder for all of it: runs/<model>/<corpus>/{store.zarr,results,verdicts}
models: [llava-hf/llava-1.5-7b-hf, /models/mine]       # or names of your own, as in {mine: /models/mine}
corpora: {phrases: phrases.txt, wiki: [a.txt, b.txt]}  # files or folders
images: photos/                 # leave out to stop after extract
extract: {per_token: 20}        # fields of `lens extract`, as its --print-config shows them
tune: {steps: 250}              # leave out to have no Tuned Lens; runs/<model>/<corpus>/tuned
analyze: {layers: all}
judge: {judge: truth}           # leave out to stop after analyze
report: {max_images: 100}
launch: {cluster: slurm, partition: gpu, time: "4:00:00"}    # for all stages; a stage's own settings come first
"""

TUNED = "tuned"
"""The lens that needs the stage tune."""
SECTIONS = ("out", "models", "corpora", "images", "extract", "tune", "analyze", "judge", "report", "launch")


@dataclass(frozen=True)
class Stage:
    """One stage of a chain: the job, its cluster and folder, and the names of its model and corpus in the file."""

    job: Job
    launch: Launch
    folder: Path
    model: str
    corpus: str

    @property
    def title(self) -> str:
        """Its name within the pipeline."""
        return f"{self.model}/{self.corpus} {self.job.stage}"


@dataclass(frozen=True)
class Pipeline:
    """The contents of a pipeline file.

    Attributes:
        chains: for each model and corpus the stages, each with the one before as its input.
        report: the folder of the report on all.
        max_images: of its viewer, for each analyze run; None for the default.
        launch: the settings of the section `launch`, with which the report is queued.

    """

    chains: tuple[tuple[Stage, ...], ...]
    report: Path
    max_images: int | None
    launch: Launch

    @property
    def has_results(self) -> bool:
        """Whether there is anything to report, which needs more than extract."""
        return len(self.chains[0]) > 1


@dataclass(frozen=True)
class _Common:
    """The settings for all stages, by the section `launch` and the command line."""

    launch: Launch = field(default_factory=Launch)


def read_pipeline(path: Path, flags: Sequence[str]) -> Pipeline:
    """Read a pipeline file and check every setting in it.

    Args:
        path: the file.
        flags: launch flags of the command line, which override the file.

    Raises:
        InputError: an unknown section or field, or a wrong value.

    """
    where = f"--config {path}"
    found = read_yaml(path)
    for key in found:
        if key not in SECTIONS:
            known = nearest(str(key), SECTIONS) or f"; expected some of {', '.join(SECTIONS)}"
            raise InputError(f"{where}: no section {key!r}{known}")
    for key in ("out", "models", "corpora"):
        if not found.get(key):
            raise InputError(f"{where}: {key!r} is missing; a pipeline has at least out, models and corpora")
    out = Path(str(found["out"]))
    corpora = _named(found["corpora"], f"{where}: corpora")
    sections = {key: _section(found, key, where) for key in ("extract", "tune", "analyze", "judge", "report", "launch")}
    for key in sections["report"]:
        if key != "max_images":
            raise InputError(f"{where}: report: no field {key!r}; expected max_images")
    if "tune" in found:
        lenses = sections["analyze"].setdefault("lenses", f"{AnalyzeSettings.lenses},{TUNED}")
        if TUNED not in (lenses if isinstance(lenses, list) else str(lenses).split(",")):
            raise InputError(f"{where}: 'tune' needs {TUNED} among the lenses of analyze, found {lenses!r}")
    if "judge" in found and "images" not in found:
        raise InputError(f"{where}: 'judge' needs 'images'")

    def stage(settings_of: type[Settings], folder: Path, **own: Any) -> Stage:
        name = settings_of.stage
        for key in own.keys() & sections[name].keys():
            raise InputError(f"{where}: {name}: {key!r} is set by the pipeline itself; leave it out")
        command = command_of(settings_of)
        settings = {**sections["launch"], **sections[name], **own, "out": str(folder)}
        words = [*flags_of(settings, command, f"{where}: {name}", flags), *flags]
        parsed: Any = parse(command, words, "lens pipeline", with_first_store)
        parsed.launch.prepare(parsed.settings)
        return Stage(job_from(parsed.settings), parsed.launch, folder, folder.parts[-3], folder.parts[-2])

    chains = []
    for model_name, model in _named(found["models"], f"{where}: models").items():
        for corpus_name, corpus in corpora.items():
            folder = out / model_name / corpus_name
            store, results = folder / "store.zarr", folder / "results"
            files = corpus if isinstance(corpus, list) else [corpus]
            chain = [stage(ExtractSettings, store, model=str(model), corpus=files)]
            inputs = {"store": str(store)}
            if "tune" in found:
                inputs["tuned"] = str(folder / "tuned")
                chain.append(stage(TuneSettings, folder / "tuned", model=str(model), corpus=files))
            if "images" in found:
                images = str(found["images"])
                chain.append(stage(AnalyzeSettings, results, model=str(model), images=images, **inputs))
            if "judge" in found:
                chain.append(stage(JudgeSettings, folder / "verdicts", results=str(results)))
            chains.append(tuple(chain))
    clusters = {stage.launch.cluster for chain in chains for stage in chain}
    if len(clusters) > 1:
        raise InputError(f"{where}: found stages on {' and '.join(sorted(clusters))}, expected one cluster for all")
    common = parse(
        _Common, [*flags_of(sections["launch"], _Common, f"{where}: launch", flags), *flags], "lens pipeline"
    )
    return Pipeline(tuple(chains), out / "report", sections["report"].get("max_images"), common.launch)


def _section(found: dict[Any, Any], key: str, where: str) -> dict[str, Any]:
    section = found.get(key) or {}
    if not isinstance(section, dict):
        raise InputError(f"{where}: {key}: found {section!r}, expected fields as in {{per_token: 20}}")
    return {str(name).replace("-", "_"): value for name, value in section.items()}


def _named(entries: Any, where: str) -> dict[str, Any]:
    """Returns entries by the names of their folders: given ones, or the last part of each path."""
    if isinstance(entries, (str, Path)):
        entries = [entries]
    if not isinstance(entries, dict):
        names = [Path(str(entry[0] if isinstance(entry, list) else entry)).name for entry in entries]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise InputError(f"{where}: {min(twice)!r} occurs twice; name them, as in {{first: {entries[0]}}}")
        entries = dict(zip(names, entries, strict=True))
    for name in entries:
        if not str(name) or "/" in str(name) or str(name) in (".", ".."):
            raise InputError(f"{where}: the name {name!r} cannot be a folder")
    return {str(name): value for name, value in entries.items()}
