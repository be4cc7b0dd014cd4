"""LensResults: all lines come back, and any selection is the one that a loop over the lines would make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from storage_layouts.errors import CorruptError, IncompleteError, InputError
from storage_layouts.results import (
    GEOMETRY_SCHEMA,
    LensResults,
    result_schema,
    write_geometry,
    write_images,
    write_results,
    write_tokens,
)
from storage_layouts.row_tables import SENTENCE_SCHEMA
from storage_layouts.runs import Receipt
from storage_layouts.tables import write_table


def test_everything_comes_back(small_runs, builders) -> None:
    results = LensResults.open(small_runs.analyze)
    assert (results.lenses, results.layers, results.top_k, results.model) == (
        ("latent", "logit"),
        (0, 3),
        3,
        "tiny-vlm",
    )
    expected = pa.Table.from_pylist(builders.result_lines(0, 5), schema=result_schema(3))
    assert results.results().equals(expected)
    assert results.results().schema == result_schema(3)
    assert results.geometry().to_pylist() == builders.geometry_lines(0, 5)
    assert results.images().column("path").to_pylist() == [f"bild {i}.png" for i in range(5)]
    assert results.token_words() == ["a", "▁b"]
    assert results.store().path == small_runs.store


def test_runs_of_one_model_share_their_token_texts(small_runs, builders, tmp_path) -> None:
    builders.analyze(tmp_path / "same")
    builders.analyze(tmp_path / "other", tokens=["a", "▁b", "c"])
    one, same, other = map(LensResults.open, (small_runs.analyze, tmp_path / "same", tmp_path / "other"))
    assert one.token_words() is same.token_words()
    assert [run.token_words() for run in (other, one)] == [["a", "▁b", "c"], ["a", "▁b"]]


@pytest.mark.parametrize("lens", [None, "latent"])
@pytest.mark.parametrize("layer", [None, 3])
@pytest.mark.parametrize("image_ids", [None, [4, 0], [1, 1], [], [99]])
def test_a_selection_is_that_of_a_loop(small_runs, builders, lens, layer, image_ids) -> None:
    found = LensResults.open(small_runs.analyze).results(lens=lens, layer=layer, image_ids=image_ids)
    expected = [
        line
        for line in builders.result_lines(0, 5)
        if lens in (None, line["lens"])
        and layer in (None, line["layer"])
        and (image_ids is None or line["image_id"] in image_ids)
    ]
    assert found.equals(pa.Table.from_pylist(expected, schema=result_schema(3)))


def test_a_selection_of_patches_is_that_of_a_loop(small_runs, builders) -> None:
    lines = builders.result_lines(0, 5)
    keys = sorted({(line["image_id"], line["view"], line["row"], line["col"]) for line in lines})
    for asked in (keys[::3], keys[-1:], [(0, 0, 99, 0), (99, 0, 0, 0)], []):
        expected = [line for line in lines if (line["image_id"], line["view"], line["row"], line["col"]) in asked]
        for columns in (None, ["lens", "ids"]):
            found = LensResults.open(small_runs.analyze).results(columns=columns, patches=asked)
            table = pa.Table.from_pylist(expected, schema=result_schema(3))
            assert found.equals(table if columns is None else table.select(columns))


def test_geometry_of_some_images(small_runs, builders) -> None:
    found = LensResults.open(small_runs.analyze).geometry(iter([3, 1]))
    assert found.to_pylist() == [*builders.geometry_lines(1, 2), *builders.geometry_lines(3, 4)]


def test_scores_keep_every_bit(tmp_path: Path) -> None:
    scores = np.nextafter(np.float32(0.5), np.float32(1)) + np.zeros(2, np.float32)
    line = {"image_id": 0, "view": 0, "row": 0, "col": 0, "layer": 0, "lens": "logit", "ids": [2**31 - 1, 0]}
    table = pa.Table.from_pylist([{**line, "scores": scores, "contextual_layers": [-1, -1]}], schema=result_schema(2))
    write_results(tmp_path / "part.parquet", table)
    back = pa.parquet.read_table(tmp_path / "part.parquet")
    assert back.column("scores").combine_chunks().flatten().to_numpy().tolist() == scores.tolist()
    assert back.column("ids").to_pylist() == [[2**31 - 1, 0]]


def test_equal_rows_are_equal_bytes_however_the_table_came_about(tmp_path: Path, rng) -> None:
    size = 60_000  # several pages of text
    texts = rng.integers(0, 2**60, size).astype(str).tolist()
    whole = pa.table({"sentence_id": range(size), "text": texts})
    pieces = pa.concat_tables([whole[i : i + 777] for i in range(0, size, 777)])
    later = pa.concat_tables([whole[:5], whole])[5:].replace_schema_metadata({"a": "b"})
    other_order = whole.select(["text", "sentence_id"])
    for number, table in enumerate((whole, pieces, later, other_order)):
        write_table(tmp_path / str(number), table, SENTENCE_SCHEMA)
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1


def test_unknown_lens_layer_or_stage(small_runs) -> None:
    results = LensResults.open(small_runs.analyze)
    with pytest.raises(InputError, match="no lens 'tuned'; it has latent, logit"):
        results.results(lens="tuned")
    with pytest.raises(InputError, match="no layer 1; it has 0, 3"):
        results.results(layer=1)
    with pytest.raises(InputError, match="'extract', expected 'analyze'"):
        LensResults.open(small_runs.store)


def test_an_incomplete_run_shows_what_is_done(tmp_path: Path, builders) -> None:
    builders.analyze(tmp_path)
    (tmp_path / "receipts/00001.json").unlink()
    with pytest.raises(IncompleteError, match=r"1 of 3 shards are missing \(00001\)"):
        LensResults.open(tmp_path)
    results = LensResults.open(tmp_path, allow_incomplete=True)
    assert results.geometry().column("image_id").to_pylist() == [0, 1, 4]
    assert results.store() is None


def test_another_store_in_the_same_place_is_refused(tmp_path: Path, builders) -> None:
    builders.store(tmp_path / "store.zarr")
    builders.analyze(tmp_path / "run", tmp_path / "store.zarr")
    (tmp_path / "store.zarr").rename(tmp_path / "old.zarr")
    with pytest.raises(InputError, match="not a run folder"):
        LensResults.open(tmp_path / "run").store()
    builders.store(tmp_path / "store.zarr", rows=30)
    with pytest.raises(InputError, match="put that store back"):
        LensResults.open(tmp_path / "run").store()


def test_a_cut_table_is_noticed_before_it_is_read(tmp_path: Path, builders) -> None:
    builders.analyze(tmp_path)
    (tmp_path / "images.parquet").write_bytes((tmp_path / "images.parquet").read_bytes()[:-1])
    with pytest.raises(CorruptError, match=r"images\.parquet.*delete plan\.json and repeat the command"):
        LensResults.open(tmp_path)


def test_images_in_the_wrong_shard_are_refused(tmp_path: Path, builders) -> None:
    builders.analyze(tmp_path)
    run = LensResults.open(tmp_path).run
    receipt, name = run.read_receipt(1), "geometry/part-00001.parquet"
    table = pa.Table.from_pylist(builders.geometry_lines(0, 2), schema=GEOMETRY_SCHEMA)
    run.write_receipt(Receipt(1, 2, {**receipt.files, name: write_geometry(tmp_path / name, table)}))
    with pytest.raises(CorruptError, match="found images 0 to 1, expected 2 to 3"):
        LensResults.open(tmp_path).geometry()


def test_tables_that_do_not_fit_are_not_written(tmp_path: Path, builders) -> None:
    file = tmp_path / "part.parquet"
    good = pa.Table.from_pylist(builders.result_lines(0, 1), schema=result_schema(3))
    bad_scores = pa.array([[float("nan"), 0, 0]] * len(good), pa.list_(pa.float32(), 3))
    wrong = {
        "missing": good.drop_columns("layer"),
        "NaN": good.set_column(good.schema.get_field_index("scores"), "scores", bad_scores),
        "does not fit": good.set_column(4, "layer", pa.array([70000] * len(good))),
        "fixed-size list": good.set_column(6, "ids", pa.array([[1, 2, 3]] * len(good))),
    }
    for message, table in wrong.items():
        with pytest.raises(ValueError, match=message):
            write_results(file, table)
    with pytest.raises(ValueError, match="missing"):
        write_images(file, good[:1])
    with pytest.raises(ValueError, match="token_id: expected 0, 1, 2"):
        write_tokens(file, pa.table({"token_id": [1, 0], "token": ["b", "a"]}))
    assert not file.exists()
