"""report.md: one page that a person reads in two minutes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lenscore.reports.sections import Section
from lenscore.reports.sources import AnalyzeSource, Sources
from lenscore.reports.tables import markdown, plain

_SHOWN_ERRORS = 5


def report_text(sources: Sources, sections: Sequence[Section]) -> str:
    """The page, as Markdown."""
    parts = ["# What the lenses see\n", "Open [viewer/index.html](viewer/index.html) to look at single patches.\n"]
    if not any(source.judges for source in sources.analyses):
        parts.append("No judge run was given, so there are no rates.\n")
    for section in sections:
        parts += [f"## {section.title}\n", section.text]
        parts += [markdown(table) for table in section.brief]
        parts += [f"![{plain(plot.caption)}](figures/{plot.name}.png)\n" for plot in section.plots]
        if section.tables:
            links = ", ".join(f"[{table.name}](tables/{table.name}.csv)" for table in section.tables)
            parts.append(f"Tables: {links}.\n")
    parts.append(
        "Figures are there as PNG, SVG and PDF beside the CSV that was drawn; tables as CSV, Markdown and LaTeX.\n"
    )
    parts.append("## What is missing\n")
    for source in sources.analyses:
        parts += _missing_part(source)
    parts.append("## Runs\n")
    parts += [_run_part(source) for source in sources.analyses]
    return "\n".join(parts)


def _missing_part(source: AnalyzeSource) -> Iterator[str]:
    yield f"### {plain(source.label)}\n"
    errors = source.results.geometry().select(["image_id", "error"]).to_pylist()
    unreadable = [line for line in errors if line["error"] is not None]
    lines = [f"- Unreadable images: {len(unreadable)} of {len(errors)}."]
    paths = dict(zip(*source.results.images().select(["image_id", "path"]).to_pydict().values(), strict=True))
    lines += [f"  - `{plain(paths[line['image_id']])}`: {plain(line['error'])}" for line in unreadable[:_SHOWN_ERRORS]]
    if len(unreadable) > _SHOWN_ERRORS:
        lines.append(f"  - and {len(unreadable) - _SHOWN_ERRORS} more, listed in the viewer.")
    for judge in source.judges:
        outcomes = judge.summary.outcomes
        names = ["refused", "unparsable", "failed"] + ["tied"] * ("tied" in outcomes)
        counts = ", ".join(f"{name} {outcomes.get(name, 0)}" for name in names)
        asked = judge.run.config["patches"]
        lines.append(
            f"- Judge {judge.summary.judge}: {counts} of {sum(outcomes.values())} answers; these enter no rate."
        )
        facts = judge.run.require_plan().facts
        if "norm_outliers" in facts:
            lines.append(f"- {facts['norm_outliers']} patches were left out for their norm.")
        if judge.summary.judged < asked:
            lines.append(
                f"- Judge {judge.summary.judge}: {asked} patches were asked for, {judge.summary.judged} qualify."
            )
        if judge.summary.judged > judge.verdicts["image_id"].nunique():
            lines.append("- Some images have several judged patches; the intervals take them as independent.")
    yield "\n".join(lines) + "\n"


def _run_part(source: AnalyzeSource) -> str:
    run = source.results.run
    lines = [f"- analyze `{run.path}`: run {run.run_id}, model `{source.results.model}`, {_versions(run.versions)}."]
    for judge in source.judges:
        config = judge.run.config
        lines.append(
            f"  - judge `{judge.run.path}`: run {judge.run.run_id}, {config['judge']}, seed {config['seed']}, "
            f"{_versions(judge.run.versions)}."
        )
    return "\n".join(lines) + "\n"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
