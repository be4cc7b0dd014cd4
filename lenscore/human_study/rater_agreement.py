"""How well a judge agrees with people: accuracy, Cohen's kappa and Spearman's correlation, in all and by model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import spearmanr

from lenscore.human_study.judge_replies import JudgeReply
from lenscore.human_study.study_files import Item, Study
from lenscore.statistics.intervals import Estimate, Mean
from lenscore.statistics.panel import cohen_kappa
from storage_layouts.errors import InputError

Rule = Literal["majority", "any", "unanimous"]


@dataclass(frozen=True)
class Agreement:
    """Of one judge with the people of a study, about one model or (model "all") about every one.

    ``accuracy`` is the share of equal labels with its 95 % interval over images, for answers about one image resemble
    each other. ``kappa`` (Cohen, 1960) and ``spearman`` are NaN
    where they are not defined: kappa where everybody gave one and the same label, Spearman where one side did.
    ``human_yes`` and ``judge_yes`` are how many of the n patches each finds interpretable.
    """

    judge: str
    model: str
    n: int
    accuracy: Estimate
    kappa: float
    spearman: float
    human_yes: int
    judge_yes: int


@dataclass(frozen=True)
class Comparison:
    """All agreements, judge by judge, "all" before the models; and what could not be compared, by kind."""

    agreements: tuple[Agreement, ...]
    outcomes: dict[str, dict[str, int]]
    """By judge, how often each outcome came; only yes and no are compared."""
    unmatched: dict[str, list[str]]


def label(votes: Iterable[bool], rule: Rule) -> bool:
    """Whether several yes and no make a yes: at least half of them (so ties are yes), any, or all."""
    votes = list(votes)
    if rule == "majority":
        return 2 * sum(votes) >= len(votes)
    return any(votes) if rule == "any" else all(votes)


def compare(study: Study, replies: Iterable[JudgeReply], unmatched: dict[str, list[str]], rule: Rule) -> Comparison:
    """Compare every judge with the people of a study, on the items that both answered.

    A judge that was asked several times about an item is taken by the majority of its yes and no, ties being yes.
    ``unmatched`` is what was already left out while the replies were read. Raises InputError if nothing is left.
    """
    unmatched = study.unmatched | unmatched
    by_judge: dict[str, dict[str, list[str]]] = {}
    for reply in replies:
        by_judge.setdefault(reply.judge, {}).setdefault(reply.item, []).append(reply.outcome)
    agreements: list[Agreement] = []
    for judge, outcomes in by_judge.items():
        lines = []
        for name, votes in study.answers.items():
            said = [outcome == "yes" for outcome in outcomes.get(name, []) if outcome in ("yes", "no")]
            if said:
                lines.append((study.items[name], label(votes.values(), rule), label(said, "majority")))
            else:
                why = f"without a yes or no of {judge}" if name in outcomes else f"not judged by {judge}"
                unmatched.setdefault(f"answered by people, but {why}", []).append(name)
        models = sorted({item.model for item, _, _ in lines})
        if lines:
            agreements.append(_agreement(judge, "all", lines))
            agreements += [_agreement(judge, one, [line for line in lines if line[0].model == one]) for one in models]
    if not agreements:
        asked, judged = (
            next(iter(study.answers), "none"),
            next((name for of in by_judge.values() for name in of), "none"),
        )
        raise InputError(
            f"people and judge have no instance in common: people answered e.g. {asked}, the judge {judged}"
        )
    counted = {judge: dict(Counter(o for of in items.values() for o in of)) for judge, items in by_judge.items()}
    return Comparison(tuple(agreements), counted, unmatched)


def _agreement(judge: str, model: str, lines: list[tuple[Item, bool, bool]]) -> Agreement:
    human, judged = [line[1] for line in lines], [line[2] for line in lines]
    equal = np.equal(human, judged).astype(float)
    return Agreement(
        judge=judge,
        model=model,
        n=len(lines),
        accuracy=Mean.of(equal[:, None], [line[0].image for line in lines]).as_share(),
        kappa=cohen_kappa(human, judged),
        spearman=float(spearmanr(human, judged).statistic) if len(set(human)) == len(set(judged)) == 2 else math.nan,
        human_yes=sum(human),
        judge_yes=sum(judged),
    )
