"""report.md, a page to read in two minutes, and details.md with everything else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lenscore.reports.missing import missing_text
from lenscore.reports.parts.table_formats import markdown, markdown_text, plain
from lenscore.reports.provenance import runs_text
from lenscore.reports.sections import Plot, Section, Table
from lenscore.statistics.sources import Sources
from lenscore.viewer.shown_models import ViewerModel

_LINKS = 8
_WHAT_A_LENS_IS = (
    "A *lens* turns a language model's hidden state at a patch of an image into ranked words; they are *right* where a "
    "judge says that one of the best names what the patch shows.\n"
)


def report_text(
    sources: Sources, sections: Sequence[Section], details: Sequence[Section], peers: Sequence[ViewerModel] = ()
) -> str:
    """report.md: the findings of all sections, the ``sections`` themselves, and the names of the ``details``.

    ``peers`` are the models of result files, which are only in the viewer.
    """
    parts = ["# What the lenses see\n", "Open [viewer/index.html](viewer/index.html) to look at single patches.\n"]
    parts.append(_WHAT_A_LENS_IS)
    if not sources.judged and not sources.judge_outputs:
        parts.append("No judge run was given, so there are no rates.\n")
    findings = [finding for section in [*sections, *details] for finding in section.findings]
    if findings:
        parts += ["## Findings\n", "".join(f"- {finding}\n" for finding in findings)]
        parts.append("In brackets are 95 % intervals, each by itself.\n")
    for section in sections:
        parts += _section_parts(section)
    if details:
        titles = ", ".join(section.title for section in details)
        parts.append(f"More in [details.md](details.md): {titles}.\n")
    parts += [
        "## What is missing\n",
        missing_text(sources, peers),
        "## Runs\n",
        runs_text(sources, peers),
        *_judge_output_files(sources),
        "Figures: PNG, SVG, PDF, and the CSV that was drawn; tables: CSV, Markdown, LaTeX.\n",
    ]
    return "\n".join(parts)


def details_text(sections: Sequence[Section]) -> str:
    """details.md: the sections that report.md only lists."""
    parts = ["# Details\n", "The findings, what is missing and the runs stand in [report.md](report.md).\n"]
    for section in sections:
        parts += _section_parts(section)
    return "\n".join(parts)


def _section_parts(section: Section) -> Iterator[str]:
    yield f"## {section.title}\n"
    if section.text:
        yield section.text
    for table in section.brief:
        yield f"{markdown_text(table.caption)}\n"
        yield markdown(table)
    details = {plot.name for plot in section.details}
    for plot in section.plots:
        if plot.name not in details:
            yield f"![{markdown_text(plot.caption)}](figures/{plot.name}.png)\n"
    links = _links(section.tables, "tables", "csv")
    figures = _links(section.details, "figures", "png")
    more = [f"{what}: {of}." for what, of in (("Tables", links), ("More figures", figures)) if of]
    if more:
        yield " ".join(more) + "\n"


def _links(things: Sequence[Table] | Sequence[Plot], folder: str, ending: str) -> str:
    links = [f"[{thing.name}]({folder}/{thing.name}.{ending})" for thing in things[:_LINKS]]
    return ", ".join(links) + (f" and {len(things) - _LINKS} more in [{folder}]({folder})" if things[_LINKS:] else "")


def _judge_output_files(sources: Sources) -> Iterator[str]:
    if outputs := sorted({str(output.file) for output in sources.judge_outputs}):
        more = f" and {len(outputs) - 1} more" if len(outputs) > 1 else ""
        yield f"Judge outputs of latentlens: `{plain(outputs[0])}`{more}.\n"
