"""Rates in judge outputs of other people: counted from the replies, never believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lenscore.reports.writing import write_report
from lenscore.statistics.judge_output_files import read_judge_outputs
from storage_layouts.errors import InputError
from tests import published_files as published


def rates(*paths: Path) -> list[tuple[str, str, int | None, int, int, int]]:
    return [(one.model, one.lens, one.layer, one.yes, one.n, one.unparsable) for one in read_judge_outputs(paths)]


def test_replies_are_counted_anew(tmp_path: Path) -> None:
    file = published.evaluation_results(tmp_path / "latentlens" / "logitlens" / "olmo-vit", {0: "yynu", 16: "nnn"}, "")
    assert rates(file) == [("olmo-vit", "logit", 0, 2, 3, 1), ("olmo-vit", "logit", 16, 0, 3, 0)]
    published.evaluation_results(tmp_path / "tuned_lens" / "olmo-vit", {0: "y"}, "logitlens")
    published.evaluation_results(tmp_path / "mine" / "x", {0: "y"}, "my own")
    assert rates(tmp_path / "tuned_lens", tmp_path / "mine") == [
        ("olmo-vit", "tuned", 0, 1, 1, 0),
        ("x", "my own", 0, 1, 1, 0),
    ]


def test_the_papers_judge_says_model_and_judge(tmp_path: Path) -> None:
    file = published.results_validation(tmp_path, 24, "yyn")
    (output,) = read_judge_outputs([tmp_path])
    assert (output.model, output.judge, output.lens, output.layer) == ("olmo-7b + vit-l-14-336", "gpt-5", "latent", 24)
    assert (output.yes, output.n, output.unparsable, output.file) == (2, 3, 0, file)


def test_the_papers_judges_of_vocabulary_lenses_keep_replies_by_image(tmp_path: Path) -> None:
    published.results_of_vocabulary_lens(tmp_path / "llm_judge_logitlens", "layer24", {"a.jpg": "yn", "b.jpg": "y"})
    published.results_of_vocabulary_lens(tmp_path / "llm_judge_nearest_neighbors", 0, {"a.jpg": "n"})
    published.results_of_vocabulary_lens(tmp_path / "llm_judge_tunedlens", "layer8", {"a.jpg": "y"})
    assert sorted(rates(tmp_path)) == [
        ("olmo-7b_siglip", "embedding", 0, 0, 1, 0),
        ("olmo-7b_siglip", "logit", 24, 2, 3, 0),
        ("olmo-7b_siglip", "tuned", 8, 1, 1, 0),
    ]
    (tmp_path / "results_validation.json").write_text('{"responses": {"a.jpg": 3}}')
    with pytest.raises(InputError, match=r"results_validation\.json: expected replies: results, a list, or responses"):
        rates(tmp_path / "results_validation.json")


def test_layers_that_were_gathered_are_not_counted_twice(tmp_path: Path) -> None:
    for layer, letters in ((0, "y"), (1, "n")):
        published.evaluation_results(tmp_path / "latentlens" / f"layer_{layer}", {layer: letters})
    assert rates(tmp_path) == [("latentlens", "latent", 0, 1, 1, 0), ("latentlens", "latent", 1, 0, 1, 0)]
    published.evaluation_results(tmp_path / "latentlens", {0: "y", 1: "n"})
    assert rates(tmp_path) == [("latentlens", "latent", 0, 1, 1, 0), ("latentlens", "latent", 1, 0, 1, 0)]


def only(folder: Path, entry: dict[str, Any]) -> Path:
    (folder / "evaluation_results.json").write_text(json.dumps([entry]))
    return folder


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"layer": "0"}, "layer: found '0', expected a whole number"),
        ({"layer": 0, "interpretable_fraction": 0.5}, "num_patches: found nothing"),
        ({"layer": 0, "interpretable_fraction": 50, "num_patches": 10}, "found 50, expected a share, 0 to 1"),
        ({"layer": 0, "interpretable_fraction": True, "num_patches": 10}, "found True, expected a share"),
        ({"layer": 0, "interpretable_fraction": 0.5, "num_patches": 9}, "0.5 is no share of 9 patches"),
        ({"layer": 0, "patches": [5]}, "[0]: found 5, expected an object with judgment"),
        ({"layer": 0, "patches": {"a": 1}}, "patches: found {'a': 1}, expected a list"),
        ({"layer": 0, "method": 3, "interpretable_fraction": 1, "num_patches": 1}, "method: found 3, expected text"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_odd_content_is_one_line_with_file_and_field(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        read_judge_outputs([only(tmp_path, entry)])
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "evaluation_results.json"))
    assert "\n" not in str(refused.value)


def test_stated_counts_stand_where_the_replies_do_not(tmp_path: Path) -> None:
    folder = tmp_path / "nn"
    folder.mkdir()
    only(folder, {"layer": 3, "interpretable_fraction": 0.25, "num_patches": 8})
    assert rates(folder) == [("nn", "embedding", 3, 2, 8, 0)]
    (folder / "evaluation_results.json").write_text("{}")
    with pytest.raises(InputError, match="an entry for each layer"):
        rates(folder)


def test_a_report_shows_them(tmp_path: Path) -> None:
    published.evaluation_results(tmp_path / "theirs" / "olmo-vit", {0: "yynu", 16: "nnny"})
    published.latent(tmp_path / "theirs", 0)
    report = write_report([tmp_path / "theirs"], tmp_path / "out")
    text = report.report.read_text()
    assert "## Rates in judge outputs of latentlens\n" in text
    assert "Replies that could not be parsed, and enter no rate: 1" in text
    assert "| 43 % | 7 | 1 |" in text  # 3 of 7
    assert "67 % (21–94)" in (tmp_path / "out" / "tables" / "judge-outputs.md").read_text()
    assert "so there are no rates" not in text
    assert "Nothing that these runs know of" not in text
    found = pd.read_csv(tmp_path / "out" / "tables" / "judge-outputs.csv")
    assert found[["layer", "n", "unparsable"]].to_numpy().tolist() == [[0, 3, 1], [16, 4, 0]]
    assert found["rate"].tolist() == pytest.approx([2 / 3, 1 / 4])
    with pytest.raises(InputError, match=r"--peer-images .*: found only judge outputs, which show no images, of the"):
        write_report([tmp_path / "theirs" / "olmo-vit"], tmp_path / "alone", peer_images=tmp_path)
    alone = write_report([tmp_path / "theirs" / "olmo-vit"], tmp_path / "alone").report.read_text()
    assert "Judge outputs of latentlens: `" in alone
    assert "Nothing that these runs know of" not in alone


def test_what_is_no_run_is_named_in_a_report(tmp_path: Path) -> None:
    for given, message in (
        (published.plot_data(tmp_path / "plots"), "what the LatentLens paper's figures are drawn from"),
        (published.descriptions(tmp_path / "told", 0).parent, "descriptive_layer0.json is Patchscopes descriptions"),
    ):
        with pytest.raises(InputError, match=f"{given}: not a run folder: .*{message}"):
            write_report([given], tmp_path / "out", peer_images=tmp_path)
    theirs = tmp_path / "theirs"
    published.patchscopes(theirs, 0)
    published.descriptions(theirs, 0)
    text = write_report([theirs], tmp_path / "out").report.read_text()
    assert "Not shown: Patchscopes descriptions, generated text without candidates (1 files, e.g. descriptive" in text
