from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from lenscore.statistics.panel import agreement, cohen_kappa, decided
from storage_layouts.verdicts import COLUMNS


def table(lines: list[tuple[int, str, int, str]]) -> pd.DataFrame:
    """Verdicts from (patch, judge, repeat, outcome)."""
    rows = []
    for patch, judge, repeat, outcome in lines:
        row = dict.fromkeys(COLUMNS, "") | {"image_id": patch, "view": 0, "row": 0, "col": 0, "layer": 1}
        fitting = (f"word of {judge}",) if outcome == "yes" else ()
        rows.append(row | {"lens": "latent", "judge": judge, "repeat": repeat, "outcome": outcome, "fitting": fitting})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_the_majority_of_those_who_answer_decides() -> None:
    said = {
        0: ("yes", "yes", "no"),
        1: ("no", "yes", "no"),
        2: ("refused", "yes", "no"),
        3: ("failed", "no", "refused"),
        4: ("unparsable", "failed", "refused"),
        5: ("no", "yes", "yes"),
    }
    lines = [(patch, f"j{i}", 0, outcome) for patch, row in said.items() for i, outcome in enumerate(row)]
    lines.insert(1, (0, "j0", 1, "no"))  # a repeat decides nothing
    found = decided(table(lines))
    assert found["image_id"].tolist() == [0, 1, 2, 3, 4, 5]
    assert found["outcome"].tolist() == ["yes", "no", "tied", "no", "unparsable", "yes"]
    assert found["fitting"].tolist() == [("word of j0",), (), (), (), (), ("word of j1",)]
    assert set(found["judge"]) == {"j0,j1,j2"}
    assert list(found.columns) == list(COLUMNS)


def test_one_judge_decides_alone() -> None:
    found = decided(table([(0, "j", 0, "yes"), (0, "j", 1, "no"), (1, "j", 0, "failed")]))
    assert found["outcome"].tolist() == ["yes", "failed"]


def test_agreement_counts_pairs_that_both_answered() -> None:
    lines = [(0, "a", 0, "yes"), (0, "b", 0, "yes"), (1, "a", 0, "yes"), (1, "b", 0, "no")]
    lines += [(2, "a", 0, "no"), (2, "b", 0, "refused"), (3, "a", 0, "no"), (3, "b", 0, "no")]
    lines += [(0, "a", 1, "yes"), (0, "a", 2, "no"), (1, "a", 1, "failed"), (1, "a", 2, "yes")]
    found = agreement(table(lines)).set_index(["first", "second"])
    assert found.loc[("a", "b"), ["n", "agree"]].tolist() == [3, 2]
    # Patch 0: three pairs of replies, one agrees; patch 1: the pair that was answered agrees.
    assert found.loc[("a", "a"), ["n", "agree"]].tolist() == [4, 2]
    assert ("b", "b") not in found.index
    assert agreement(table([(0, "a", 0, "yes")])).empty


def test_panel_and_repeats_agree_with_theory() -> None:
    """Judges who err independently with chance e: two agree with chance 1-2e(1-e), three err with 3e^2-2e^3."""
    rng, error, patches = np.random.default_rng(0), 0.2, 4000
    truth = rng.random(patches) < 0.5
    lines = []
    for judge in ("a", "b", "c"):
        for repeat in range(2):
            says = truth ^ (rng.random(patches) < error)
            lines += [(i, judge, repeat, "yes" if yes else "no") for i, yes in enumerate(says)]
    verdicts = table(lines)
    for line in agreement(verdicts).itertuples():
        assert line.n == patches
        assert line.low < 1 - 2 * error * (1 - error) < line.high
    wrong = (decided(verdicts)["outcome"] == "yes").to_numpy() != truth
    expected = 3 * error**2 - 2 * error**3
    assert wrong.mean() == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / patches))


@given(st.lists(st.tuples(st.booleans(), st.booleans())))
def test_kappa_is_that_of_another_program(pairs: list[tuple[bool, bool]]) -> None:
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    if len({*one, *other}) < 2:
        assert np.isnan(cohen_kappa(one, other))
    else:
        assert cohen_kappa(one, other) == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)
