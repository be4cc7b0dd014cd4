"""Several judges, or repeated replies of one judge: majority decisions and agreement."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from math import nan

import numpy as np
import pandas as pd

from lenscore.statistics.intervals import Mean

QUESTION = ["image_id", "view", "row", "col", "layer", "lens", "control"]
"""The columns that identify a question; with judge and repeat they identify a verdict."""
TIED = "tied"
"""The outcome of a panel with as many yes as no; it enters no rate."""
AGREEMENT_COLUMNS = ["first", "second", "n", "agree", "rate", "low", "high", "kappa", "images"]


def decided(verdicts: pd.DataFrame) -> pd.DataFrame:
    """One verdict for each question, in the order of the first verdicts.

    For one judge it is its first reply. For a panel it is the majority of the first replies that are yes or no; a
    question without such a reply has the outcome of the first judge. ``fitting`` and ``reply`` are from the first judge
    with the majority's outcome, ``judge`` lists all judges.
    """
    first = verdicts[verdicts["repeat"] == 0]
    judges = first["judge"].unique()
    if len(judges) < 2:
        return first.reset_index(drop=True)
    said = first.assign(yes=first["outcome"] == "yes", no=first["outcome"] == "no")
    counts = said.groupby(QUESTION, sort=False)[["yes", "no"]].transform("sum")
    yes, no = counts["yes"].to_numpy(), counts["no"].to_numpy()
    opinion = pd.Series("", index=first.index).mask(yes > no, "yes").mask(no > yes, "no")
    # The verdicts with the majority's outcome come first, and each question keeps its first line.
    order = first.assign(opinion=opinion, place=range(len(first)), silent=first["outcome"] != opinion)
    kept = order.sort_values(["silent", "place"], kind="stable").drop_duplicates(QUESTION)
    tied = (kept["opinion"] == "") & (yes[kept["place"]] > 0)
    outcome = kept["opinion"].where(kept["opinion"] != "", kept["outcome"]).mask(tied, TIED)
    empty = pd.Series([()] * len(kept), index=kept.index)
    kept = kept.assign(outcome=outcome, fitting=kept["fitting"].where(~tied, empty), judge=",".join(judges))
    starts = order.groupby(QUESTION, sort=False)["place"].transform("min")
    kept = kept.assign(place=starts.loc[kept.index]).sort_values("place", kind="stable")
    return kept[verdicts.columns].reset_index(drop=True)


def agreement(verdicts: pd.DataFrame, by_layer: bool = False) -> pd.DataFrame:
    """Agreement where both outcomes are yes or no, with 95 % intervals over images; columns ``AGREEMENT_COLUMNS``.

    One line for each pair of judges (their first replies), then one for each judge with repeats: all pairs of its
    replies to the same question. ``kappa`` is that of `cohen_kappa`. With ``by_layer`` there is a line for each layer,
    with the column ``layer``.
    """
    judges = list(verdicts["judge"].unique())
    pairs = [(one, other, [((one, 0), (other, 0))]) for one, other in combinations(judges, 2)]
    for judge in judges:
        asked = sorted(verdicts.loc[verdicts["judge"] == judge, "repeat"].unique().tolist())
        if len(asked) > 1:
            pairs.append((judge, judge, [((judge, a), (judge, b)) for a, b in combinations(asked, 2)]))
    columns = AGREEMENT_COLUMNS + ["layer"] * by_layer
    if not pairs:
        return pd.DataFrame(columns=columns)
    answered = verdicts[verdicts["outcome"].isin(["yes", "no"])]
    yes = answered.assign(yes=(answered["outcome"] == "yes").astype(float))
    table = yes.pivot_table(index=QUESTION, columns=["judge", "repeat"], values="yes", aggfunc="first")
    lines = []
    for one, other, replies in pairs:
        said = pd.concat([_both(table, *pair) for pair in replies])
        if not by_layer:
            lines.append([one, other, *_agreement(said)])
            continue
        for layer, of_layer in said.groupby(level="layer"):
            lines.append([one, other, *_agreement(of_layer), layer])
    return pd.DataFrame(lines, columns=columns)


def _both(table: pd.DataFrame, one: tuple[str, int], other: tuple[str, int]) -> pd.DataFrame:
    """The replies of two where both answered, in the columns ``one`` and ``other``."""
    if one not in table.columns or other not in table.columns:
        return pd.DataFrame({"one": [], "other": []}, index=table.index[:0])
    return pd.DataFrame({"one": table[one], "other": table[other]}).dropna()


def cohen_kappa(one: Iterable[bool], other: Iterable[bool]) -> float:
    """Agreement of two raters beyond chance (Cohen, 1960): 1 - observed disagreement / disagreement by chance.

    NaN if there is no disagreement by chance: there are no answers, or all answers are the same.
    """
    first, second = np.asarray([*one], dtype=bool), np.asarray([*other], dtype=bool)
    n = len(first)
    by_chance = first.sum() * (~second).sum() / n + (~first).sum() * second.sum() / n if n else 0.0
    return float(1 - (first != second).sum() / by_chance) if by_chance else nan


def _agreement(said: pd.DataFrame) -> list[float]:
    agree = np.asarray(said["one"] == said["other"], dtype=np.float64)
    rate = Mean.of(agree[:, None], [str(image) for image in said.index.get_level_values("image_id")]).as_share()
    return [len(said), int(agree.sum()), *rate[:3], cohen_kappa(said["one"], said["other"]), rate.images]
