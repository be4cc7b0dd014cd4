"""The result in one sentence: which lens leads, by how much, on how many patches, according to which judge."""

from __future__ import annotations

from collections.abc import Sequence

from lenscore.readings.lens_titles import title_of
from lenscore.statistics.intervals import Estimate
from lenscore.statistics.summary import OTHER_PATCH, RANDOM_WORDS, Summary, left_out_of_means, lens_ahead
from storage_layouts.counts import counted


def summary_sentence(summary: Summary) -> str:
    """Returns the sentence for one judge run; rates are means over `Summary.mean_layers`."""
    rates = summary.ranked
    if not rates:
        return f"The judge {summary.judge} answered no question with yes or no."
    (best, rate), *others = rates
    lead = f"one of its {summary.words} best words is right for {_percent(rate)} of the patches"
    if leads := leading_lens(summary):
        lead = f"{leads}: {lead}" if leads.startswith(title_of(best)) else f"{leads}; of {title_of(best)}, {lead}"
    else:
        lead = f"{title_of(best)}: {lead}"
    beside = [f"{title_of(lens)} {_percent(other)}" for lens, other in others] + _chance(summary)
    layers = counted(len(summary.mean_layers), "layer") + _without([summary])
    return (
        f"{lead}{'; ' if beside else ''}{', '.join(beside)} (mean over {layers}; "
        f"{rate.patches:,} patches of {rate.images:,} images; {_judge(summary)})."
    )


def leading_lens(summary: Summary) -> str:
    """Returns a clause without a full stop; "" with fewer than two judged lenses."""
    leader = summary.leader
    if leader is None:
        return ""
    if not leader.leads:
        return "No lens leads clearly"
    return f"{title_of(leader.lens)} leads by {100 * leader.difference.value:.0f} points"


def joint_summary_sentence(summaries: Sequence[Summary]) -> str | None:
    """Returns the sentence for several models of equal weight; None without a judge run."""
    if len(summaries) < 2:
        return summary_sentence(summaries[0]) if summaries else None
    rates, ahead, clearly = lens_ahead(summaries)
    if not rates:
        return f"{len(summaries)} models were judged, with no lens in common."
    listed = ", ".join(f"{title_of(lens)} {_percent(rate)}" for lens, rate in rates)
    judges = ", ".join(dict.fromkeys(_judge(summary) for summary in summaries))
    return (
        f"{title_of(rates[0][0])} is ahead in {ahead} of {len(summaries)} models, clearly in {clearly}; patches with a "
        f"right word, mean over models and layers{_without(summaries)}: {listed} ({judges})."
    )


def _without(summaries: Sequence[Summary]) -> str:
    """What means over layers leave out, as a clause."""
    return ", without the output of the last block" if left_out_of_means(summaries) else ""


def _chance(summary: Summary) -> list[str]:
    """Rate of random words, or else of the words of other patches."""
    for control, name in ((RANDOM_WORDS, "random words"), (OTHER_PATCH, "another patch's words")):
        mean = summary.answers.mean(summary.lenses, summary.mean_layers, control)
        if mean.patches:
            return [f"{name} {100 * mean.value:.0f}\u00a0%"]
    return []


def _judge(summary: Summary) -> str:
    return "the exact truth" if summary.judge == "truth" else f"judge {summary.judge}"


def _percent(rate: Estimate) -> str:
    return rate.shown.replace(" %", "\u00a0%")
