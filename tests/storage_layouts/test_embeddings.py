"""The store: what is read is what was encoded, whatever part is asked for, or it is refused."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from lenscore.index.quantized_layer import QuantizedLayer
from storage_layouts import runs
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import CorruptError, IncompleteError, InputError
from storage_layouts.files import FileDigest, check_size, digest_file
from storage_layouts.quantize import ENCODINGS, FILLS, Encoded, decode_unit, encode
from storage_layouts.row_tables import write_rows_part
from storage_layouts.runs import Receipt, RunFolder, Shard
from storage_layouts.shard_file import shard_file
from storage_layouts.store_layout import StoreLayout
from storage_layouts.zarr_arrays import RowArray

PARTS = ("codes", "outliers", "scale", "norm")
SPAWN = multiprocessing.get_context("spawn")


def bytes_of(encoded: Encoded) -> list[bytes]:
    return [np.asarray(getattr(encoded, name)).tobytes() for name in PARTS]


def tree(path: Path) -> dict[str, bytes]:
    return {f.relative_to(path).as_posix(): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


# The second shape has several inner chunks a shard, and a last shard that ends within one.
@pytest.mark.parametrize(("rows", "dim", "per_shard"), [(50, 24, 20), (5000, 9, 2048), (3, 1, 1)])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_rows_come_back_as_encoded(tmp_path, builders, encoding: str, separate: bool, rows, dim, per_shard) -> None:
    states = builders.store(tmp_path, encoding, rows, dim, per_shard, separate=separate)
    store = EmbeddingStore.open(tmp_path)
    assert (store.rows, store.dim, store.encoding, store.attrs) == (rows, dim, encoding, {"model": "tiny"})
    group = zarr.open_group(tmp_path, mode="r")
    for layer in store.layers:
        dims = store.outlier_dims(layer)
        expected = encode(states[layer], encoding, dims).numpy()
        assert bytes_of(store.read_layer(layer)) == bytes_of(expected)
        for first, stop in ((0, 1), (1, rows), (per_shard - 1, per_shard + 1), (rows - 1, rows), (2, 2)):
            part = store.read_rows(layer, first, stop)
            wanted = [np.asarray(getattr(expected, name))[first:stop] for name in PARTS]
            assert bytes_of(part) == [array.tobytes() for array in wanted]
            assert [getattr(part, name).shape for name in PARTS] == [array.shape for array in wanted]
        for name in PARTS:
            theirs = (
                group[f"layers/{layer:02d}/{name}"][:]
                if separate
                else group[f"layers/{name}"][store.layers.index(layer)]
            )
            np.testing.assert_array_equal(theirs, getattr(expected, name))
        unit = states[layer] / states[layer].norm(dim=1, keepdim=True)
        decoded = decode_unit(store.read_layer(layer).torch(), encoding, dims)
        assert torch.nn.functional.cosine_similarity(decoded, unit).min() > 0.99


def test_rows_and_sentences_have_their_tables(small_runs, builders) -> None:
    store = EmbeddingStore.open(small_runs.store)
    expected = builders.row_table(50)
    assert store.row_table().to_pydict() == expected.to_pydict()
    assert store.row_table(["token", "position"]).to_pydict() == expected.select(["token", "position"]).to_pydict()
    assert store.sentences().num_rows == 50
    assert store.sentence_texts([9, 0, 9]) == ["text 3", "text 0", "text 3"]
    for unknown in (1, 1000, -3):
        with pytest.raises(KeyError, match=str(unknown)):
            store.sentence_texts([0, unknown])


def test_the_same_work_gives_the_same_bytes(small_runs, tmp_path, builders) -> None:
    builders.store(tmp_path)
    builders.store(tmp_path)  # and a repetition leaves them as they are
    unlike = ("run.json", "attempts")  # which tell the time
    expected, found = (
        {n: d for n, d in tree(path).items() if not n.startswith(unlike)} for path in (small_runs.store, tmp_path)
    )
    assert found == expected


def test_an_incomplete_store_is_refused_unless_asked_for(tmp_path, builders) -> None:
    states = builders.store(tmp_path, shards=slice(0, 1))
    with pytest.raises(IncompleteError, match=r"2 of 3 shards are missing \(00001, 00002\)"):
        EmbeddingStore.open(tmp_path)
    store = EmbeddingStore.open(tmp_path, allow_incomplete=True)
    expected = encode(states[1][:20], store.encoding, store.outlier_dims(1)).numpy()
    assert bytes_of(store.read_rows(1, 0, 20)) == bytes_of(expected)
    for read in (lambda: store.read_rows(1, 0, 21), lambda: store.read_layer(1)):
        with pytest.raises(IncompleteError, match="shard 1 has no receipt"):
            read()


@pytest.mark.parametrize("separate", [False, True])
def test_no_file_is_looked_at_twice_to_open_a_store(tmp_path, builders, monkeypatch, separate: bool) -> None:
    """Each look takes a millisecond on a network file system."""
    builders.store(tmp_path, separate=separate)
    seen: list[str] = []

    def counted(path: Path, digest: FileDigest, remedy: str) -> None:
        seen.append(path.relative_to(tmp_path).as_posix())
        check_size(path, digest, remedy)

    monkeypatch.setattr(runs, "check_size", counted)
    EmbeddingStore.open(tmp_path)
    named = [name for name in tree(tmp_path) if not name.endswith(".json") or "outlier_dims" in name]
    assert sorted(seen) == sorted(named)
    seen.clear()
    EmbeddingStore.open(tmp_path, layers=[12])  # others may not be there
    assert [name for name in seen if "/01" in name] == []


def test_the_first_choice_of_outlier_dimensions_holds(tmp_path, builders) -> None:
    builders.store(tmp_path, shards=slice(0, 0))
    store = EmbeddingStore.open(tmp_path, allow_incomplete=True)
    assert store.set_outlier_dims(1, range(6)).tolist() == list(range(6))
    assert store.set_outlier_dims(1, range(8, 14)).tolist() == list(range(6))
    assert EmbeddingStore.open(tmp_path, allow_incomplete=True).outlier_dims(1).tolist() == list(range(6))
    for wrong in (range(7), range(20, 28), [1, 0, *range(2, 6)]):
        with pytest.raises(ValueError, match="expected 6 ascending numbers below 24"):
            store.set_outlier_dims(1, wrong)


def test_what_the_store_does_not_have_is_said(small_runs) -> None:
    store = EmbeddingStore.open(small_runs.store)
    for read in (store.read_layer, store.outlier_dims):
        with pytest.raises(InputError, match="no layer 2; it has 1, 12"):
            read(2)
    with pytest.raises(IndexError):
        store.read_rows(1, 0, 51)
    with pytest.raises(InputError, match="'analyze', expected 'extract'"):
        EmbeddingStore.open(small_runs.analyze)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_fill_values_are_neither_written_nor_read(tmp_path, builders, encoding: str, name: str) -> None:
    """Also not with a receipt that vouches for them, as a faulty writer would leave."""
    builders.store(tmp_path, encoding)
    store = EmbeddingStore.open(tmp_path)
    shard = store.run.plan.shard(1)
    good = store.read_rows(12, shard.first, shard.stop)
    parts = {part: getattr(good, part).copy() for part in PARTS}
    parts[name][7, ...] = FILLS[encoding] if name == "codes" else np.nan
    other = store.read_rows(1, shard.first, shard.stop)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=f"layer 12.*{name} holds fill values"):
        store.write_shard(shard, [(1, other), (12, Encoded(**parts))])
    assert tree(tmp_path) == before
    array = store.layout.arrays()[name]
    key = f"layers/{name}/{array.key(1)}"
    with shard_file(tmp_path, key, array, 20) as file:
        file.write(0, getattr(other, name))
        file.write(1, parts[name])
    receipt = store.run.read_receipt(1)
    store.run.write_receipt(Receipt(1, 20, {**receipt.files, key: file.digest}))
    store = EmbeddingStore.open(tmp_path)
    if name == "codes":  # seen when they are decoded, and before every search
        layers = store.read_layer(12), store.map_layer(12)
        for layer in layers:
            with pytest.raises(ValueError, match="row 27 holds fill values"):
                _ = QuantizedLayer(
                    layer.torch() if layer is layers[0] else layer, encoding, store.outlier_dims(12)
                ).max_norm
        return
    with pytest.raises(CorruptError, match=rf"{key}: found {name} holds fill values.*delete receipts/00001\.json"):
        store.read_layer(12)


def test_a_chunk_that_zarr_would_fill_in_is_refused(tmp_path, builders) -> None:
    """zarr reads a missing inner chunk as fill values; a receipt that vouches for such a file does not help."""
    builders.store(tmp_path, rows=3000, per_shard=2048)
    array = zarr.open_group(tmp_path, mode="a")["layers/codes"]
    array[0, 0:1024] = FILLS["float8_e4m3fn"]  # zarr leaves such a chunk out
    run, key = RunFolder.open(tmp_path), "layers/codes/c.0.0.0"
    receipt = run.read_receipt(0)
    with pytest.raises(CorruptError, match="bytes, expected"):
        EmbeddingStore.open(tmp_path)
    run.write_receipt(Receipt(0, 2048, {**receipt.files, key: digest_file(tmp_path / key)}))
    with pytest.raises(CorruptError, match=r"c\.0\.0\.0"):
        EmbeddingStore.open(tmp_path).read_layer(1)


def test_wrong_rows_are_not_written(small_runs, tmp_path, builders) -> None:
    builders.store(tmp_path)
    store = EmbeddingStore.open(tmp_path)
    good = store.read_rows(1, 0, 20)
    for shard in (Shard(0, 0, 19), Shard(1, 0, 20), Shard(2, 40, 60), Shard(1, 20, 40)):
        encoded = good if shard != Shard(1, 20, 40) else store.read_rows(1, 0, 10)
        with pytest.raises(ValueError, match=r"is not a shard|codes: found uint8 \[10, 24\]"):
            store.write_shard(shard, [(1, encoded), (12, encoded)])
    wrong = Encoded(good.codes.astype(float), good.outliers, good.scale, good.norm)
    with pytest.raises(ValueError, match="codes: found float64"):
        store.write_shard(Shard(0, 0, 20), [(1, good), (12, wrong)])
    for layers in ((1,), (1, 12, 1), ()):
        with pytest.raises(ValueError, match=r"found layers \[.*\], expected \[1, 12\]"):
            store.write_shard(Shard(0, 0, 20), [(layer, good) for layer in layers])
    unlike = ("run.json", "attempts")  # which tell the time
    expected, found = (
        {n: d for n, d in tree(path).items() if not n.startswith(unlike)} for path in (small_runs.store, tmp_path)
    )
    assert found == expected


def test_row_numbers_that_are_not_0_to_n_are_refused(tmp_path, builders) -> None:
    layout = StoreLayout((1,), 4, 8, "int8", 4)
    run = RunFolder.create(tmp_path, "extract", {}, {})
    files = EmbeddingStore.write_skeleton(tmp_path, layout)
    name = "rows/part-00000.parquet"
    files[name] = write_rows_part(tmp_path / name, builders.row_table(5)[1:])
    run.write_plan(4, 4, files, {})
    store = EmbeddingStore.open(tmp_path, allow_incomplete=True)
    with pytest.raises(CorruptError, match="found 4 rows, expected 0 to 3 in order"):
        store.row_table(["token"])


@pytest.mark.parametrize(
    "changed",
    [
        {"layers": (2, 1)},
        {"layers": ()},
        {"layers": (-1, 2)},
        {"rows": 0},
        {"encoding": "float8"},
        {"rows_per_shard": 1500},
        {"attrs": {"dim": 3}},
    ],
)
def test_a_layout_that_cannot_be_stored_is_refused(changed: dict) -> None:
    fields = {"layers": (1, 2), "rows": 10, "dim": 4, "encoding": "int8", "rows_per_shard": 1024, "attrs": {}}
    with pytest.raises((ValueError, InputError)):
        StoreLayout(**{**fields, **changed})


def write_one_shard(path: str, shard: int, rounds: int, start=None) -> None:
    store = EmbeddingStore.open(path, allow_incomplete=True)
    work = store.run.plan.shard(shard)
    states = torch.randn(work.items, store.dim, generator=torch.Generator().manual_seed(shard))
    if start is not None:
        start.wait(60)
    for _ in range(rounds):
        dims = {layer: store.set_outlier_dims(layer, range(6)) for layer in store.layers}
        layers = [(layer, encode(states, store.encoding, dims[layer])) for layer in store.layers]
        store.run.write_receipt(Receipt(shard, work.items, store.write_shard(work, layers)))


def test_two_workers_on_the_same_shard_leave_one_valid_store(tmp_path, builders) -> None:
    builders.store(tmp_path, shards=slice(0, 0))
    start = SPAWN.Barrier(2)
    other = SPAWN.Process(target=write_one_shard, args=(str(tmp_path), 0, 10, start))
    other.start()
    for shard in (1, 2):
        write_one_shard(str(tmp_path), shard, 1)
    write_one_shard(str(tmp_path), 0, 10, start)
    other.join()
    assert other.exitcode == 0
    store = EmbeddingStore.open(tmp_path)
    for layer in store.layers:
        assert len(store.read_layer(layer)) == 50
    assert not list(tmp_path.rglob("*.partial"))


def test_the_file_of_a_shard_is_where_the_contract_says(small_runs, tmp_path, builders) -> None:
    files = tree(small_runs.store)
    both = RowArray("uint8", 50, 24, 20, 127, layers=2)
    assert len(files["layers/codes/c.0.2.0"]) == 2 * (20 * 24 + 4) + 2 * 16 + 4  # chunks with crc, the table, its crc
    assert files["layers/codes/zarr.json"] == both.metadata()
    assert {name for name in files if name.startswith(("layers", "outlier_dims"))} == {
        *("layers/zarr.json", "outlier_dims/01.json", "outlier_dims/12.json"),
        *(f"layers/{name}/zarr.json" for name in PARTS),
        *(f"layers/{name}/c.0.{shard}.0" for name in ("codes", "outliers") for shard in range(3)),
        *(f"layers/{name}/c.0.{shard}" for name in ("scale", "norm") for shard in range(3)),
    }
    builders.store(tmp_path, separate=True)
    files = tree(tmp_path)
    chunk = RowArray("uint8", 50, 24, 20, 127)
    assert len(files["layers/12/codes/c.2.0"]) == 20 * 24 + 4 + 16 + 4  # one inner chunk, its crc, the table, its crc
    assert files["layers/12/codes/zarr.json"] == chunk.metadata()
