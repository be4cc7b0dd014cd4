"""pass@k, corpus size and agreement of runs beside a recomputation from the verdicts' files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from lenscore.reports.agreements import agreement_section
from lenscore.reports.corpus_sizes import corpus_section
from lenscore.reports.parts.mean_rates import mean_rate_tables
from lenscore.reports.pass_at_k import pass_section
from lenscore.reports.sections import Section
from lenscore.statistics.grid import Grid
from lenscore.statistics.sources import read_sources
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts
from tests.lenscore.reports.recomputed import PATCH, answers, rank_of_first_fit, raw_verdicts


def tables(section: Section | None) -> dict[str, pd.DataFrame]:
    assert section is not None
    return {table.name: table.frame for table in section.tables}


def test_pass_at_k_counts_ranks_and_stands_beside_words_judged_alone(judged, judge, tmp_path: Path) -> None:
    results, every = judged
    alone = judge(results, tmp_path / "alone", patches=60, top_k=1)
    sources = read_sources([every, alone])
    found = tables(pass_section(sources))
    told = found["pass-at-k"].set_index(["lens", "k"])
    ranks = rank_of_first_fit(every)
    for lens in ("latent", "logit", "embedding"):
        for k in (1, 2, 3):
            assert told.loc[(lens, k), "rate"] == pytest.approx((ranks[lens] <= k).to_numpy().mean(), abs=1e-6)
        assert told.loc[(lens, 3), "rate"] == pytest.approx(answers(every)[lens].to_numpy().mean(), abs=1e-6)
    assert told.loc["latent"].index.tolist() == [1, 2, 3]  # the run of one word has no curve of its own
    beside = found["top-k"].set_index("lens")
    assert (beside["k"].unique().tolist(), beside["words"].unique().tolist()) == ([1], [3])
    for lens in ("latent", "logit", "embedding"):
        assert beside.loc[lens, "alone"] == pytest.approx(answers(alone)[lens].to_numpy().mean(), abs=1e-6)
        assert beside.loc[lens, "among"] == pytest.approx((ranks[lens] == 1).to_numpy().mean(), abs=1e-6)
        assert beside.loc[lens, "low"] <= beside.loc[lens, "difference"] <= beside.loc[lens, "high"]
    assert [judge.summary.model for judge in sources.analyses[0].judges] == ["made/vlm truth", "made/vlm truth top 1"]
    (headline,) = mean_rate_tables(sources, Grid.of(sources.analyses))
    assert len(headline.frame["model"].unique()) == 2  # no mean of models: it is one model, asked twice


def test_agreement_of_two_runs_is_on_the_questions_that_both_asked(judged, judge, tmp_path: Path, monkeypatch) -> None:
    results, nouns = judged
    others = judge(results, tmp_path / "others", patches=50, judge="truth:colour+noun")

    def flipped(run: RunFolder) -> pd.DataFrame:
        """Every seventh verdict of the second run says the opposite."""
        verdicts = read_verdicts(run)
        if run.path == others:
            verdicts.loc[::7, "outcome"] = verdicts.loc[::7, "outcome"].map({"yes": "no", "no": "yes"})
        return verdicts

    monkeypatch.setattr("lenscore.statistics.sources.read_verdicts", flipped)
    found = tables(agreement_section(read_sources([nouns, others])))
    asked = [*PATCH, "layer", "lens", "control"]
    both = [raw_verdicts(run) for run in (nouns, others)]
    both[1].loc[::7, "outcome"] = both[1].loc[::7, "outcome"].map({"yes": "no", "no": "yes"})
    for verdicts in both:
        verdicts["words"] = verdicts["candidates"].map(tuple)
    merged = both[0].merge(both[1], on=[*asked, "words"])
    assert 500 < len(merged) < len(both[1])  # the words of other patches may be of another patch
    line = found["agreement"].iloc[0]
    assert (line["first"], line["second"], line["n"]) == ("truth", "truth:colour+noun", len(merged))
    assert line["agree"] == (merged["outcome_x"] == merged["outcome_y"]).sum()
    assert line["kappa"] == pytest.approx(cohen_kappa_score(merged["outcome_x"], merged["outcome_y"]), abs=1e-6)
    assert line["low"] < line["rate"] < line["high"]
    assert line["images"] == merged["image_id"].nunique()
    layers = found["agreement-by-layer"].set_index("layer")
    of_two = merged[merged["layer"] == 2]
    assert layers.loc[2, "agree"] == (of_two["outcome_x"] == of_two["outcome_y"]).sum()
    assert layers["n"].sum() == len(merged)


def test_corpus_size_orders_runs_of_one_model_by_what_their_stores_say(make_results, judge, tmp_path: Path) -> None:
    runs = {}
    for luck, fraction in enumerate((1.0, 0.01, 0.1)):
        folder = tmp_path / str(fraction)
        results = make_results(folder, images=8, unreadable=False, fraction=fraction, luck=luck)
        runs[fraction] = judge(results, folder / "judge", patches=20)
    other = make_results(tmp_path / "other", images=8, unreadable=False, model="made/other", fraction=0.5)
    last = judge(other, tmp_path / "other/judge", patches=20)
    section = corpus_section(read_sources([*runs.values(), last]))
    told = tables(section)["corpus-size"]
    assert told["model"].unique().tolist() == ["made/vlm"]  # the other model has one store only
    assert told["sentences"].unique().tolist() == [100, 1000, 10_000]
    for line in told.itertuples():
        found = answers(runs[line.fraction])[line.lens]
        assert line.rate == pytest.approx(found.to_numpy().mean(), abs=1e-6)
        assert (line.patches, line.corpus, line.per_token) == (20, "phrases.txt", 20)
        assert line.low < line.rate < line.high
    assert "with 100 sentences in the store LatentLens is right for" in section.findings[0]
    assert corpus_section(read_sources([last])) is None
    (tmp_path / "1.0/store.zarr").rename(tmp_path / "elsewhere.zarr")
    left = tables(corpus_section(read_sources(list(runs.values()))))["corpus-size"]
    assert left["sentences"].unique().tolist() == [100, 1000]  # what a store that is gone was made from is not known
