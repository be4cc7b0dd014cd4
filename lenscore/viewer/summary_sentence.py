"""What is seen, in one sentence: which lens is ahead, by how much, on how many patches, and who says so."""

from __future__ import annotations

from collections.abc import Sequence

from lenscore.statistics.intervals import Estimate, Mean
from lenscore.statistics.summary import OTHER_PATCH, RANDOM_WORDS, TITLES, Summary


def summary_sentence(summary: Summary) -> str:
    """The sentence for one judge run; rates are means over its layers."""
    rates = ranked(summary)
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
    rates = ranked(summary)
    found = summary.lead(rates[0][0]) if rates else None
    if found is None:
        return ""
    surely = found[1].low > 0
    return f"{_title(rates[0][0])} leads by {100 * found[1].value:.0f} points" if surely else "No lens leads clearly"


def what_is_seen_of_all(summaries: Sequence[Summary]) -> str | None:
    """The sentence for several models, each counting alike; None without any judge run."""
    if len(summaries) < 2:
        return summary_sentence(summaries[0]) if summaries else None
    common = [lens for lens in summaries[0].lenses if all(lens in summary.lenses for summary in summaries)]
    means = {lens: Mean.average([one.answers.mean([lens], one.layers) for one in summaries]) for lens in common}
    rates = {lens: mean.as_share() for lens, mean in means.items() if mean.patches}
    if not rates:
        return f"{len(summaries)} models were judged, with no lens in common."
    order = sorted(rates, key=lambda lens: -rates[lens].value)
    listed = ", ".join(f"{_title(lens)} {_percent(rates[lens])}" for lens in order)
    ahead = sum(ranked(summary)[0][0] == order[0] for summary in summaries if ranked(summary))
    clearly = sum(leading_lens(summary).startswith(f"{_title(order[0])} leads") for summary in summaries)
    judges = ", ".join(dict.fromkeys(_judge(summary) for summary in summaries))
    return (
        f"{_title(order[0])} is ahead in {ahead} of {len(summaries)} models, clearly in {clearly}; patches with a "
        f"right word, mean over models and layers: {listed} ({judges})."
    )


def ranked(summary: Summary) -> list[tuple[str, Estimate]]:
    """The lenses that were judged, with their means over layers, the best first."""
    rates = [(lens, summary.mean(lens)) for lens in summary.lenses]
    return sorted(((lens, rate) for lens, rate in rates if rate.patches), key=lambda one: -one[1].value)


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
    return TITLES.get(lens, lens)
