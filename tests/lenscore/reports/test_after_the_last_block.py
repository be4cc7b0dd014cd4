"""A run that also has the output of the last block: means over layers are those of the run without it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs.judge_job import JudgeJob
from lenscore.reports.comparison import comparison_section
from lenscore.reports.edge_distances import rates_by_distance
from lenscore.reports.missing import missing_text
from lenscore.reports.overlap import _averaged, count_overlap
from lenscore.reports.pass_at_k import pass_section
from lenscore.reports.rates import rates_section
from lenscore.reports.sections import Section
from lenscore.reports.state_drift import states_section
from lenscore.reports.word_properties import words_section
from lenscore.statistics.published_rates import Published
from lenscore.statistics.sources import Sources, read_sources
from lenscore.viewer.index_page import index_context
from lenscore.viewer.layer_map import LayerMap
from lenscore.viewer.model_page import model_context
from lenscore.viewer.shown_models import model_of_run
from lenscore.viewer.summary_sentence import joint_summary_sentence, summary_sentence
from tests import synthetic_run
from tests.lenscore.reports.test_comparison import TABLE

SAID = "Means over layers leave out the output of the last block (layer 5)."
PUBLISHED = TABLE | {"rates": [line for line in TABLE["rates"] if line["layer"] != 5]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_results, judge) -> tuple[Sources, Sources]:
    """The same analysis judged without and with layer 5, the output of the last of five blocks."""
    found = []
    for layers in ((0, 2), (0, 2, 5)):
        folder = tmp_path_factory.mktemp("layers")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(synthetic_run, "LAYERS", layers)
            results = synthetic_run.with_cosines(make_results(folder, images=6, unreadable=False, depth=5))
        sources = read_sources([judge(results, folder / "judge", patches=40)])
        found.append(dataclasses.replace(sources, published=Published.model_validate(PUBLISHED)))
    return found[0], found[1]


def table(section: Section | None, name: str, of_means: bool = False) -> pd.DataFrame:
    assert section is not None
    frame = next(table.frame for table in section.tables if table.name == name)
    return frame[frame["layer"] == "mean"].reset_index(drop=True) if of_means else frame


def test_means_are_those_without_it(made: tuple[Sources, Sources]) -> None:
    for section, name, of_means in (
        (rates_section, "headline", False),
        (rates_section, "lead", True),
        (rates_section, "leads", True),
        (pass_section, "pass-at-k", False),
        (comparison_section, "comparison-means", False),
        (words_section, "words", False),
    ):
        without, with_it = (table(section(sources), name, of_means) for sources in made)
        pd.testing.assert_frame_equal(without, with_it, obj=name)
        assert len(without) > 0
    near = [rates_by_distance(source.judged[0][1]) for source in made]
    pd.testing.assert_frame_equal(*near)
    plain, final = (source.judged[0][1].summary for source in made)
    assert (plain.ranked, plain.leader, plain.control("other-patch")) == (
        final.ranked,
        final.leader,
        final.control("other-patch"),
    )
    assert final.layers == [0, 2, 5]
    assert final.rate("latent", 5).n == 40  # rates by layer have it


def test_what_means_leave_out_is_said_beside_them(made: tuple[Sources, Sources]) -> None:
    for section in (rates_section, pass_section, comparison_section):
        plain, final = (section(sources) for sources in made)
        assert SAID in final.text
        assert "last block" not in plain.text
    words = [next(t.caption for t in words_section(sources).tables if t.name == "words") for sources in made]
    assert ["the last block (layer 5)" in caption for caption in words] == [False, True]
    plain, final = (source.judged[0][1].summary for source in made)
    assert "(mean over 2 layers; " in summary_sentence(plain)
    assert "(mean over 2 layers, without the output of the last block; " in summary_sentence(final)
    assert "layers, without the output of the last block: " in joint_summary_sentence([final, final])
    index = [index_context([model_of_run(source.analyses[0])], [([], None)]) for source in made]
    assert [context["left_out"] for context in index] == ["", SAID]
    assert [missing_text(sources).count("these were not analysed: 1, 3, 4.") for sources in made] == [1, 1]


def test_the_drift_ends_before_it(made: tuple[Sources, Sources]) -> None:
    (plain,), (final,) = (states_section(sources).findings for sources in made)
    assert ": at layer 2 a visual token's" in plain
    assert ": at layer 2 a visual token's" in final


def test_the_matrix_of_many_runs_is_of_the_layers_before_it(made: tuple[Sources, Sources]) -> None:
    analyses = [dataclasses.replace(made[1].analyses[0], label=label) for label in ("one", "other")]
    frame, _ = count_overlap(analyses)
    assert sorted(_averaged(frame, analyses)["layer"].unique()) == [0, 2]
    assert sorted(frame["layer"].unique()) == [0, 2, 5]


def test_alone_it_is_its_own_mean(tmp_path: Path, make_results, judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_run, "LAYERS", (5,))
    results = make_results(tmp_path, images=3, unreadable=False, depth=5)
    assert results.mean_layers == (5,)
    summary = read_sources([judge(results, tmp_path / "judge", patches=20)]).judged[0][1].summary
    assert summary.mean("latent").value == summary.rate("latent", 5).rate
    assert "last block" not in summary_sentence(summary)


def test_its_norms_do_not_change_the_sample(tmp_path: Path, make_results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_run, "LAYERS", (0, 2, 5))
    results = make_results(tmp_path, images=3, unreadable=False, depth=5)

    class AtTheEnd:
        """Norms that stand out at the last layer alone."""

        def normal(self, mean: float, width: float, layers: int) -> np.ndarray:
            self.calls = getattr(self, "calls", 0) + 1
            return np.array([mean, mean + 0.01 * (self.calls % 7), 50.0 * (self.calls == 1)])

    monkeypatch.setattr(synthetic_run.np.random, "default_rng", lambda seed: AtTheEnd())
    synthetic_run.with_norms(results, sinks=set())
    job = JudgeJob(results.path, tmp_path / "judge", patches=1000, norm_cut=5.0)
    run = job.open_run()
    job.plan(run, lambda message: None)
    assert run.require_plan().facts["norm_outliers"] == 0


def test_it_has_its_number_everywhere(made: tuple[Sources, Sources]) -> None:
    source = made[1].analyses[0]
    assert source.layers_shown == "0, 2, 5 (5: the output of the last block)"
    context = model_context(model_of_run(source), [], LayerMap((0, 2, 5)), "")
    assert dict(context["facts"])["layers"] == source.layers_shown
    assert made[0].analyses[0].layers_shown == "0, 2"
