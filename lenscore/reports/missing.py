"""The gaps of a report: what was left out, failed, or has too few patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lenscore.readings.lens_titles import ANALYZED, title_of
from lenscore.reports.parts.table_formats import markdown_text, plain
from lenscore.statistics.panel import TIED
from lenscore.statistics.sources import AnalyzeSource, JudgeSource, Sources, image_column
from lenscore.statistics.summary import OTHER_PATCH, RANDOM_WORDS
from lenscore.viewer.shown_models import ViewerModel
from storage_layouts.token_measures import MEASURES

FEW_PATCHES = 30
"""With fewer judged patches, report.md warns of the intervals."""
_SHOWN_ERRORS = 5
_SHOWN_MODELS = 4
_OF_OUTPUTS = "Neither images nor words nor controls: of judge outputs only the rates are shown."
_OF_FILES = "Result files, no run: shown in the viewer alone; rates, tables and figures are made of runs."


def missing_text(sources: Sources, peers: Sequence[ViewerModel] = ()) -> str:
    """A Markdown list with one entry for all models with the same gap; ``peers`` are models of result files."""
    said: dict[str, list[str]] = {}
    for source in sources.analyses:
        for line in [*_of_images(source), *_of_analysis(source), *(one for j in source.judges for one in _of_judge(j))]:
            said.setdefault(line, []).append(source.label)
    for peer in peers:
        for line in (_OF_FILES, *peer.notes):
            said.setdefault(markdown_text(line), []).append(peer.label)
    if sources.judge_outputs:
        said.setdefault(_OF_OUTPUTS, []).append("Judge outputs of latentlens")
    left_out = "".join(f"- Left out: {markdown_text(line)}\n" for line in sources.left_out)
    if not (sources.analyses or peers or sources.judge_outputs):
        return f"{left_out}- No run of `lens analyze` was given, so there are no words of any lens yet.\n"
    if not said:
        return left_out or "- Nothing that these runs know of.\n"
    count = len(sources.analyses) + len(peers) + bool(sources.judge_outputs)
    return left_out + "".join(
        f"- {'' if count == 1 else _models(labels, count) + ': '}{line}\n" for line, labels in said.items()
    )


def _models(labels: Sequence[str], count: int) -> str:
    labels = list(dict.fromkeys(labels))
    if len(labels) == count:
        return "All models"
    more = f" and {len(labels) - _SHOWN_MODELS} more" if len(labels) > _SHOWN_MODELS else ""
    return ", ".join(map(markdown_text, labels[:_SHOWN_MODELS])) + more


def _of_images(source: AnalyzeSource) -> Iterator[str]:
    images = source.results.geometry().select(["image_id", "error"]).to_pylist()
    unreadable = [line for line in images if line["error"] is not None]
    if unreadable:
        paths = image_column(source.results, "path")
        named = [f"`{plain(paths[one['image_id']])}` ({markdown_text(one['error'])})" for one in unreadable]
        more = f", and {len(named) - _SHOWN_ERRORS} more, listed in the viewer" if len(named) > _SHOWN_ERRORS else ""
        these = ", ".join(named[:_SHOWN_ERRORS])
        yield f"Unreadable images: {len(unreadable)} of {len(images)}. These are {these}{more}."


def _of_analysis(source: AnalyzeSource) -> Iterator[str]:
    results, depth = source.results, source.depth
    if depth is None:
        yield f"Only the layers {_numbers(results.layers)} were analysed; how many the model has is not known."
    left_out = [layer for layer in range(depth or 0) if layer not in results.layers]
    # The paper's choice of layers, the default, is no gap.
    if left_out and "paper" not in str(results.run.config.get("layers")).split(","):
        yield f"Of {depth} layers these were not analysed: {_numbers(left_out)}."
    yield from source.layer_notes
    not_stored = [measure for measure in MEASURES if not results.has(measure)]
    if not_stored:
        yield f"Its analysis was made by a version that kept no {' and no '.join(not_stored)} of the hidden states."
    lenses = [title_of(lens) for lens in ANALYZED if lens not in results.lenses]
    if lenses:
        yield f"Left out: {', '.join(lenses)}."
    if results.store_path and not results.store_path.exists():
        yield f"The store `{plain(str(results.store_path))}` is gone, and with it what it was made from."
    if not source.judges:
        yield "No judge run, so no rates."


def _of_judge(judge: JudgeSource) -> Iterator[str]:
    summary, config = judge.summary, judge.run.config
    name, outcomes = f"Judge {markdown_text(summary.judge)}", summary.outcomes
    names = ["refused", "unparsable", "failed", *([TIED] if TIED in outcomes else [])]
    counts = ", ".join(f"{outcome} {outcomes.get(outcome, 0)}" for outcome in names)
    if any(outcomes.get(outcome) for outcome in names):
        yield f"{name}: {counts} of {sum(outcomes.values())} answers; these enter no rate."
    if summary.judged < config["patches"]:
        yield f"{name}: {config['patches']} patches were asked for, {summary.judged} qualify."
    if summary.judged < FEW_PATCHES:
        yield f"{name}: with {summary.judged} patches the intervals are too wide to compare lenses or layers."
    if outliers := judge.run.require_plan().facts.get("norm_outliers"):
        yield f"{name}: {outliers} patches were left out for their norm."
    for control, what in ((OTHER_PATCH, "words of other patches"), (RANDOM_WORDS, "random words")):
        rate = summary.control(control)
        cells = int(summary.table["layer"].isin(summary.mean_layers).sum())
        if not rate.n:
            yield f"{name}: no control with {what}."
        elif rate.n < 0.9 * cells * summary.judged:
            yield f"{name}: the control with {what} is judged on about {round(rate.n / cells)} patches only."
    if judge.costs.unknown:
        yield (
            f"{name}: whether {judge.costs.unknown} questions were paid is unknown "
            "(`lens judge --resend-unknown` sends them again)."
        )


def _numbers(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))
