"""The exported table says what the run says: every line is compared with results, geometry, store and tokens."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from launch import cli
from lenscore.readings.words import token_word, whole_word
from lenscore.reports import results_table
from lenscore.reports.results_table import TABLE_SCHEMA, write_results_table
from storage_layouts.results import LensResults
from tests.synthetic_run import TOP_K, make_results


@pytest.fixture(scope="module")
def synthetic_results(tmp_path_factory: pytest.TempPathFactory) -> LensResults:
    return make_results(tmp_path_factory.mktemp("run"))


def expected_lines(results: LensResults) -> list[dict[str, object]]:
    store, tokens = results.store(), results.token_words()
    rows = store.row_table().to_pylist()
    sentences = {one["sentence_id"]: one["text"] for one in store.sentences().to_pylist()}
    paths = {one["image_id"]: one["path"] for one in results.images().to_pylist()}
    geometry = {one["image_id"]: one for one in results.geometry().to_pylist()}
    lines = []
    for one in results.results().to_pylist():
        about = geometry[one["image_id"]]
        place = [one[name] for name in ("view", "row", "col")]
        (patch,) = (patch for patch in about["patches"] if [patch[name] for name in ("view", "row", "col")] == place)
        for rank, (number, score) in enumerate(zip(one["ids"], one["scores"], strict=True), start=1):
            if number < 0:
                continue
            line = {name: one[name] for name in ("image_id", "view", "row", "col", "layer", "lens")}
            line |= {"image": paths[one["image_id"]], "rank": rank, "score": score, "id": number}
            line |= {"probability": None, "entropy": None, "divergence": None}  # as of runs that kept none
            line |= {"x0": patch["left"] * about["width"], "x1": patch["right"] * about["width"]}
            line |= {"y0": patch["top"] * about["height"], "y1": patch["bottom"] * about["height"]}
            if one["lens"] == "latent":
                row = rows[number]
                text = sentences[row["sentence_id"]]
                word = whole_word(text, row["char_start"], row["char_end"])
                line |= {"word": word, "token": row["token"], "sentence": text}
                line |= {"contextual_layer": one["contextual_layers"][rank - 1]}
            else:
                line |= {"word": token_word(tokens[number]) or tokens[number], "token": tokens[number]}
                line |= {"sentence": None, "contextual_layer": None}
            lines.append({name: line[name] for name in TABLE_SCHEMA.names})
    return lines


def test_every_line_is_that_of_the_run(
    synthetic_results: LensResults, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_table, "_LINES", 1000 * TOP_K)  # several pieces a shard
    out = tmp_path / "new" / "table.parquet"
    assert cli.main(["export", str(synthetic_results.path), "--to", str(out)]) == 0
    expected = expected_lines(synthetic_results)
    assert f"{out}: {len(expected):,} lines" in re.sub(r"\s+", " ", capsys.readouterr().out)
    assert pq.read_schema(out).equals(TABLE_SCHEMA)
    assert pq.ParquetFile(out).metadata.num_row_groups > synthetic_results.run.require_plan().shard_count
    assert pq.read_table(out).to_pylist() == expected
    frame = pd.read_parquet(out)
    assert list(frame.columns) == TABLE_SCHEMA.names
    best = frame[(frame["lens"] == "logit") & (frame["rank"] == 1) & (frame["layer"] == 5)]
    assert len(best) == len(frame[["image_id", "view", "row", "col"]].drop_duplicates())
    assert [path.name for path in out.parent.iterdir()] == ["table.parquet"]

    table = tmp_path / "table.csv"
    (tmp_path / "table-texts.csv").write_text("of a run with tokens of text")
    assert cli.main(["export", str(synthetic_results.path), "--to", str(table)]) == 0
    assert f"{tmp_path}/table-texts.csv: not of this run" in re.sub(r"\s+", " ", capsys.readouterr().out)
    read = pd.read_csv(table, keep_default_na=False)
    assert len(read) == len(expected)
    for name in ("image_id", "row", "col", "layer", "lens", "rank", "id", "x0", "y1"):
        assert read[name].tolist() == frame[name].tolist(), name
    assert read["score"].tolist() == pytest.approx(frame["score"].tolist(), rel=1e-6)
    plain = [one["word"] for one in expected if one["word"][0].isalnum()]
    assert [word for word in read["word"] if word[0].isalnum()] == plain

    tokens = ["=1+1"] * len(synthetic_results.token_words())
    monkeypatch.setattr(LensResults, "token_words", lambda self: tokens)
    write_results_table(synthetic_results, table)
    computed = pd.read_csv(table, keep_default_na=False)
    assert set(computed["word"][computed["lens"] != "latent"]) == {"'=1+1"}


def test_the_file_is_there_when_it_is_whole(
    synthetic_results: LensResults, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "table.parquet"
    write_results_table(synthetic_results, out)
    before = out.read_bytes()
    write_results_table(synthetic_results, out)
    assert out.read_bytes() == before

    def stopped(done: int, shards: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_results_table(synthetic_results, out, stopped)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["table.parquet"]

    for words, message in (
        (["--to", str(tmp_path / "t.txt")], "a table is a .parquet or .csv file; found .txt"),
        (["--to", str(tmp_path)], "a table is a .parquet or .csv file"),
        (["--to", str(synthetic_results.path / "results" / "part-00000.parquet")], "is inside the run"),
    ):
        assert cli.main(["export", str(synthetic_results.path), *words]) == 2
        assert message in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert cli.main(["export", str(tmp_path), "--to", str(out)]) == 2
    assert "not a run folder" in re.sub(r"\s+", " ", capsys.readouterr().err)
