"""Rates over the training, beside a recomputation from the verdicts' files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lenscore.reports import writing
from lenscore.reports.rates import rates_section
from lenscore.reports.training_dynamics import dynamics_section
from lenscore.reports.writing import write_report
from lenscore.statistics.grid import Grid
from lenscore.statistics.sources import read_sources
from tests.lenscore.reports.recomputed import answers

MADE_OF = {"llm": "a/olmo", "vision": "v/clip", "connector": "swiglu", "seed": 6198, "steps": 6000}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_results, judge) -> dict[int, Path]:
    """Judge runs on models of one training by step, the last first; and one on another training."""
    folder = tmp_path_factory.mktemp("steps")
    made = {100: MADE_OF | {"step": 100}, 6000: MADE_OF, 0: MADE_OF | {"step": 0}, -1: MADE_OF | {"seed": 1, "step": 9}}
    found = {}
    for luck, (step, made_of) in enumerate(made.items()):
        model = "/runs/olmo/model" if step == 6000 else f"/runs/olmo/models/step-{step}"
        results = make_results(folder / str(luck), images=8, unreadable=False, model=model, made_of=made_of, luck=luck)
        found[step] = judge(results, folder / str(luck) / "judge", patches=20)
    return found


def test_steps_of_one_training_are_in_one_table_and_figure(runs, tmp_path, monkeypatch) -> None:
    save_plot = writing.save_plot  # of the one figure that is looked at
    few = {"training-dynamics"}
    monkeypatch.setattr(writing, "save_plot", lambda plot, folder: save_plot(plot, folder) if plot.name in few else [])
    sources = read_sources(list(runs.values()))
    section = dynamics_section(sources)
    assert section is not None
    frame = section.tables[0].frame
    assert set(frame["training"]) == {"olmo"}
    assert list(dict.fromkeys(frame["step"])) == [0, 100, 6000]
    for line in frame.itertuples():
        assert line.rate == pytest.approx(answers(runs[line.step])[line.lens].mean(axis=1).mean(), abs=1e-6)
        assert line.low <= line.rate <= line.high
        assert line.patches == 20
    files = write_report(list(runs.values()), tmp_path / "report")
    assert "Rates over the training" in (tmp_path / "report/report.md").read_text()
    assert files is not None
    assert (tmp_path / "report/figures/training-dynamics.png").stat().st_size > 10_000

    # The trained model is the cell of the grid, whatever is named first, and the others are its ablations.
    grid = Grid.of(sources.analyses)
    assert [source.label for source in grid.cells.values()] == ["olmo"]
    assert {one.title for one in grid.ablations} == {"step 100", "step 0", "seed 1, step 9"}
    assert rates_section(sources) is not None


def test_one_step_is_no_development(runs) -> None:
    assert dynamics_section(read_sources([runs[100], runs[-1]])) is None
