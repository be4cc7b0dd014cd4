"""The grid of trained models: language models by vision encoders, and ablations of its cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenscore.statistics.sources import AnalyzeSource

_HOW_IT_RUNS = {"model", "images_per_shard", "batch_size", "self_test", "trust_remote_code"}
"""Settings of an analyze run that do not describe the analysis, and the model itself."""


@dataclass(frozen=True)
class Ablation:
    """A model that differs from the model in a cell of the grid.

    Attributes:
        source: its analyze run.
        llm, encoder: names of the cell, as in `Grid.llms` and `Grid.encoders`.
        changes: settings of `lens train`, or else of `lens analyze`, that differ, with their values in this run.

    """

    source: AnalyzeSource
    llm: str
    encoder: str
    changes: Mapping[str, Any]

    @property
    def title(self) -> str:
        """The changes as text, as ``connector linear, seed 10``; the run's label if no known setting differs."""
        return ", ".join(_shown(name, value) for name, value in self.changes.items()) or self.source.label


@dataclass(frozen=True)
class Grid:
    """Analyze runs by the components of their models.

    Attributes:
        llms: the rows, in the order of the runs; short names, unless these are ambiguous.
        encoders: the columns.
        cells: the run of each (llm, encoder); cells without a run are left out.
        ablations: further runs of a cell: models with other settings, or other analyses of the same model.
        others: models whose LLM and vision encoder are unknown.

    """

    llms: tuple[str, ...]
    encoders: tuple[str, ...]
    cells: Mapping[tuple[str, str], AnalyzeSource]
    ablations: tuple[Ablation, ...]
    others: tuple[AnalyzeSource, ...]

    @classmethod
    def of(cls, analyses: Sequence[AnalyzeSource]) -> Grid:
        """Arrange analyze runs.

        Of several runs of one cell, the grid has the run whose settings differ least from those of all models with the
        same encoder or LLM (a base model, not one of its ablations); of equals the first.
        """
        made = [(source, parts) for source in analyses if (parts := source.made_of)]
        llms = _short_names([str(parts["llm"]) for _, parts in made])
        encoders = _short_names([str(parts["vision"]) for _, parts in made])
        members: dict[tuple[str, str], list[AnalyzeSource]] = {}
        for source, parts in made:
            members.setdefault((llms[str(parts["llm"])], encoders[str(parts["vision"])]), []).append(source)
        # Before a model that is trained to its end no one of an earlier step.
        cells = {
            cell: min(runs, key=lambda run: ("step" in (run.made_of or {}), _oddity(run, made)))
            for cell, runs in members.items()
        }
        ablations = [
            Ablation(source, *cell, _changes(cells[cell], source))
            for cell, runs in members.items()
            for source in runs
            if source is not cells[cell]
        ]
        return cls(
            tuple(dict.fromkeys(llms.values())),
            tuple(dict.fromkeys(encoders.values())),
            cells,
            tuple(ablations),
            tuple(source for source in analyses if not source.made_of),
        )


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each folder or Hub name; the whole name where the last part is ambiguous."""
    short = {name: Path(name).name or name for name in names}
    often = Counter(short.values())
    return {name: brief if often[brief] == 1 else name for name, brief in short.items()}


def _oddity(run: AnalyzeSource, made: Sequence[tuple[AnalyzeSource, dict[str, Any]]]) -> int:
    """The number of settings in which a run's model differs from related models, summed over these."""
    own = run.made_of or {}
    relatives = [parts for _, parts in made if parts["vision"] == own["vision"] or parts["llm"] == own["llm"]]
    return sum(len(_differing(parts, own)) for parts in relatives)


def _changes(base: AnalyzeSource, other: AnalyzeSource) -> dict[str, Any]:
    """The settings of the training that differ; if there are none, those of the analysis."""
    trained = _differing(base.made_of or {}, other.made_of or {})
    return trained or _differing(base.results.run.config, other.results.run.config, _HOW_IT_RUNS)


def _differing(one: Mapping[str, Any], other: Mapping[str, Any], but: set[str] | None = None) -> dict[str, Any]:
    """The settings whose values differ, with their values in ``other``."""
    names = sorted((set(one) | set(other)) - (but or set()))
    return {name: other.get(name) for name in names if one.get(name) != other.get(name)}


def _shown(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    if value is True:
        return words
    if value is None or value is False:
        return f"no {words}"
    if isinstance(value, list | tuple):
        return f"{words} {', '.join(map(str, value))}"
    return f"{words} {Path(value).name if isinstance(value, str) and '/' in value else value}"
