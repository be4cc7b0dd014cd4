"""What is seen, in one sentence: which lens is ahead, by how much, on how many patches, and who says so."""

from __future__ import annotations

from collections.abc import Sequence

from lenscore.readings.lens_titles import title_of
from lenscore.statistics.intervals import Estimate
from lenscore.statistics.summary import OTHER_PATCH, RANDOM_WORDS, Summary, lens_ahead


def summary_sentence(summary: Summary) -> str:
    """The sentence for one judge run; rates are means over its layers."""
    rates = summary.ranked
    if not rates:
        return f"The judge {summary.judge} answered no question with yes or no."
    (best, rate), *others = rates
    lead = f"one of its {summary.words} best words is right for {_percent(rate)} of the patches"
    if leads := leading_lens(summary):
        lead = f"{leads}: {lead}" if leads.startswith(_title(best)) else f"{leads}; of {_title(best)}, {lead}"
    else:
        lead = f"{_title(best)}: {lead}"
    beside = [f"{_title(lens)} {_percent(other)}" for lens, other in others] + _chance(summary)
    layers = len(summary.layers)
    return (
        f"{lead}{'; ' if beside else ''}{', '.join(beside)} (mean over {layers} layer{'s' * (layers > 1)}; "
        f"{rate.patches:,} patches of {rate.images:,} images; {_judge(summary)})."
    )


def leading_lens(summary: Summary) -> str:
    """In a few words, without a full stop; "" for a single lens or none that was judged."""
    leader = summary.leader
    if leader is None:
        return ""
    if not leader.leads:
        return "No lens leads clearly"
    return f"{_title(leader.lens)} leads by {100 * leader.difference.value:.0f} points"


def what_is_seen_of_all(summaries: Sequence[Summary]) -> str | None:
    """The sentence for several models, each counting alike; None without any judge run."""
    if len(summaries) < 2:
        return summary_sentence(summaries[0]) if summaries else None
    rates, ahead, clearly = lens_ahead(summaries)
    if not rates:
        return f"{len(summaries)} models were judged, with no lens in common."
    listed = ", ".join(f"{_title(lens)} {_percent(rate)}" for lens, rate in rates)
    judges = ", ".join(dict.fromkeys(_judge(summary) for summary in summaries))
    return (
        f"{_title(rates[0][0])} is ahead in {ahead} of {len(summaries)} models, clearly in {clearly}; patches with a "
        f"right word, mean over models and layers: {listed} ({judges})."
    )


def _chance(summary: Summary) -> list[str]:
    """What random words reach, or else the words of other patches."""
    for control, name in ((RANDOM_WORDS, "random words"), (OTHER_PATCH, "another patch's words")):
        mean = summary.answers.mean(summary.lenses, summary.layers, control)
        if mean.patches:
            return [f"{name} {100 * mean.value:.0f}\u00a0%"]
    return []


def _judge(summary: Summary) -> str:
    return "the exact truth" if summary.judge == "truth" else f"judge {summary.judge}"


def _percent(rate: Estimate) -> str:
    return rate.shown.replace(" %", "\u00a0%")


def _title(lens: str) -> str:
    return title_of(lens)
