"""The table of `lens agreement` tells models apart on a terminal of 80 columns."""

from __future__ import annotations

from launch.agreement import show_tables
from lenscore.human_study.rater_agreement import Agreement, Comparison
from lenscore.statistics.intervals import Estimate

MODELS = [f"vision-language-model-with-a-long-family-name-{end}" for end in ("small-7b", "small-13b", "large-72b")]


def test_names_that_begin_alike_are_all_shown(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = [Agreement("judge", model, 100, Estimate(0.81, 0.72, 0.88, 100, 40), 0.5, 0.25, 40, 60) for model in MODELS]
    show_tables(Comparison(tuple(lines), {"judge": {"yes": 60, "no": 40}}, {}), "majority")
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "".join(row[1].strip() for row in rows) == "".join(MODELS)
    assert [row[2].strip() for row in rows if row[2].strip()] == ["100"] * 3
    assert all("…" not in cell for row in rows for cell in row)
