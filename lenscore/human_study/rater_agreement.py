"""Agreement of a judge with people: accuracy, Cohen's kappa and Spearman's correlation, overall and by model."""

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
    """Agreement of a judge with the people of a study on one model, or on all models (model "all").

    ``accuracy`` is the share of equal labels with its 95 % interval over images. ``kappa`` (Cohen, 1960) and
    ``spearman`` are NaN where they are undefined: kappa if all labels are the same, Spearman if those of one side are.
    ``human_yes`` and ``judge_yes`` are the numbers of patches that each finds interpretable.
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
    """The agreements of each judge, "all" before the models; and the names of items without a comparison, by reason."""

    agreements: tuple[Agreement, ...]
    outcomes: dict[str, dict[str, int]]
    """The counts of outcomes by judge; only yes and no are compared."""
    unmatched: dict[str, list[str]]


def label(votes: Iterable[bool], rule: Rule) -> bool:
    """Combine several yes and no: at least half (ties are yes), any, or all of them must be yes."""
    votes = list(votes)
    if rule == "majority":
        return 2 * sum(votes) >= len(votes)
    return any(votes) if rule == "any" else all(votes)


def compare(study: Study, replies: Iterable[JudgeReply], unmatched: dict[str, list[str]], rule: Rule) -> Comparison:
    """Compare each judge with the people of a study on the items that both answered.

    Args:
        study: the items and the people's answers.
        replies: of all judges; several replies of a judge about an item are combined by majority, ties being yes.
        unmatched: the names that were left out when the replies were read, by reason.
        rule: combines the answers of several people, see `label`.

    Raises:
        InputError: there is no common item.

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
        asked = next(iter(study.answers), "none")
        judged = next((name for outcomes in by_judge.values() for name in outcomes), "none")
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
