"""The bytes of arrays against zarr-python: it writes the same and reads ours."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from storage_layouts.files import digest_file
from storage_layouts.shard_file import joined_crc32, shard_file
from storage_layouts.zarr_arrays import RowArray
from storage_layouts.zarr_metadata import group_metadata


def with_zarr_python(path: Path, array: RowArray) -> zarr.Array:
    """The same array as zarr-python makes it."""
    fill = float("nan") if array.fill == "NaN" else array.fill
    return zarr.create_array(
        zarr.storage.LocalStore(path),
        shape=(*lead(array), array.rows, *array.tail),
        dtype=array.dtype,
        chunks=(*lead(array), array.shard_rows, *array.tail),
        serializer=ShardingCodec(
            chunk_shape=(*(1 for _ in lead(array)), array.inner_rows, *array.tail),
            codecs=[BytesCodec(), Crc32cCodec()],
            index_codecs=[BytesCodec(), Crc32cCodec()],
        ),
        compressors=None,
        filters=None,
        fill_value=fill,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=[*("layer" for _ in lead(array)), *["row", "dim"][: 1 + len(array.tail)]],
    )


def lead(array: RowArray) -> tuple[int, ...]:
    return () if array.layers is None else (array.layers,)


def file_of(array: RowArray, layers: list[np.ndarray]) -> bytes:
    return b"".join(array.encode_layer(rows).tobytes() for rows in layers) + array.table(len(layers[0]))


def chunks_of(data: bytes, array: RowArray) -> list[bytes]:
    """The inner chunks with their checksums, in the order of the table at the end."""
    count = (array.layers or 1) * (array.shard_rows // array.inner_rows)
    table = np.frombuffer(data[-4 - 16 * count : -4], "<u8").reshape(count, 2)
    return [data[offset : offset + size] for offset, size in table.tolist() if offset != 2**64 - 1]


ARRAYS = [
    RowArray("uint8", rows=5000, width=24, shard_rows=2048, fill=127),
    RowArray("float16", rows=2049, width=3, shard_rows=2048, fill="NaN"),
    RowArray("float32", rows=5000, width=None, shard_rows=3072, fill="NaN"),
    RowArray("float32", rows=7, width=None, shard_rows=100, fill="NaN"),
    RowArray("uint8", rows=200, width=5, shard_rows=100, fill=0),
    RowArray("uint8", rows=200, width=5, shard_rows=100, fill=0, layers=1),
]
OF_LAYERS = [
    RowArray("uint8", rows=9000, width=7, shard_rows=4096, fill=127, layers=3),
    RowArray("float16", rows=3000, width=3, shard_rows=2048, fill="NaN", layers=2),
    RowArray("float32", rows=5000, width=None, shard_rows=3072, fill="NaN", layers=5),
    RowArray("float32", rows=7, width=None, shard_rows=3, fill="NaN", layers=2),
]


@pytest.mark.parametrize("array", ARRAYS)
def test_zarr_python_writes_the_same_bytes_and_reads_ours(rng, tmp_path: Path, array: RowArray) -> None:
    values = rng.integers(1, 100, (*lead(array), array.rows, *array.tail)).astype(array.dtype)
    with_zarr_python(tmp_path / "theirs", array)[:] = values
    layer = values.reshape(array.rows, *array.tail)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    (ours / "zarr.json").write_bytes(array.metadata())
    for number, first in enumerate(range(0, array.rows, array.shard_rows)):
        rows = layer[first : first + array.shard_rows]
        (ours / array.key(number)).write_bytes(file_of(array, [rows]))
        out = np.empty_like(rows)
        digest = array.load_layer(theirs / array.key(number), out)
        assert out.tobytes() == rows.tobytes()
        assert digest == array.layer_digest(array.encode_layer(rows), array.table(len(rows)))
    names = sorted(file.name for file in theirs.iterdir())
    assert names == sorted(file.name for file in ours.iterdir())
    for name in names:
        if name == "zarr.json":
            found = json.loads((ours / name).read_bytes())
            expected = json.loads((theirs / name).read_bytes())
            expected.pop("storage_transformers", None)  # empty, may be left out
            assert found == expected
        else:
            assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    np.testing.assert_array_equal(zarr.open_array(ours)[:], values)


@pytest.mark.parametrize("array", OF_LAYERS)
def test_layers_in_one_file_have_the_chunks_of_zarr_python_one_layer_after_the_other(rng, tmp_path, array) -> None:
    """zarr-python mixes the layers (Morton order), and neither program minds the order."""
    values = rng.integers(1, 100, (array.layers, array.rows, *array.tail)).astype(array.dtype)
    with_zarr_python(tmp_path / "theirs", array)[:] = values
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    (ours / "zarr.json").write_bytes(array.metadata())
    expected = json.loads((theirs / "zarr.json").read_bytes())
    expected.pop("storage_transformers", None)
    assert json.loads(array.metadata()) == expected
    for number, first in enumerate(range(0, array.rows, array.shard_rows)):
        layers = list(values[:, first : first + array.shard_rows])
        file, count = ours / array.key(number), len(layers[0])
        file.write_bytes(file_of(array, layers))
        assert file.stat().st_size == array.shard_bytes(count)
        assert chunks_of(file.read_bytes(), array) == chunks_of((theirs / file.name).read_bytes(), array)
        for place in rng.permutation(array.layers):
            out, chunks = np.empty_like(layers[place]), array.encode_layer(layers[place])
            digest = array.layer_digest(chunks, array.table(count))
            assert array.load_layer(file, out, place) == digest
            mapped, same = array.map_layer(file, count, place)
            assert same == digest
            assert out.tobytes() == mapped.reshape(-1, *array.tail)[:count].tobytes() == layers[place].tobytes()
            assert chunks.tobytes() == file.read_bytes()[array.layer_offset(place, count) :][: chunks.size]
    assert {file.name for file in ours.iterdir()} == {file.name for file in theirs.iterdir()}
    np.testing.assert_array_equal(zarr.open_array(ours)[:], values)
    np.testing.assert_array_equal(zarr.open_array(ours)[1, 2:5], values[1, 2:5])


@pytest.mark.parametrize("array", OF_LAYERS)
def test_the_digest_of_a_file_written_layer_by_layer_is_that_of_its_bytes(rng, tmp_path, array) -> None:
    rows = min(array.rows, array.shard_rows)
    layers = [rng.integers(1, 100, (rows, *array.tail)).astype(array.dtype) for _ in range(array.layers)]
    with shard_file(tmp_path, "folder/c", array, rows) as file:
        for place in rng.permutation(array.layers):
            file.write(int(place), layers[place])
        assert not (tmp_path / "folder/c").exists()
    assert (tmp_path / "folder/c").read_bytes() == file_of(array, layers)
    assert file.digest == digest_file(tmp_path / "folder/c")


@pytest.mark.parametrize("size", [0, 1, 7, 1000])
def test_the_crc32_of_joined_bytes_is_that_of_the_bytes(rng, size: int) -> None:
    first, second = rng.bytes(123), rng.bytes(size)
    for a, b in ((first, second), (b"", second)):
        assert joined_crc32(zlib.crc32(a), zlib.crc32(b), len(b)) == zlib.crc32(a + b)


def test_groups_are_read_by_zarr_python(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_bytes(group_metadata({"model": "tiny", "layers": [1, 2]}))
    assert dict(zarr.open_group(tmp_path, mode="r").attrs) == {"model": "tiny", "layers": [1, 2]}


def test_a_file_of_another_shape_is_refused(rng, tmp_path: Path) -> None:
    array = RowArray("uint8", rows=5000, width=4, shard_rows=2048, fill=127)
    rows = rng.integers(0, 100, (2048, 4)).astype(np.uint8)
    data = file_of(array, [rows])
    file = tmp_path / "c.0.0"
    swapped = data[:-36] + data[-20:-4] + data[-36:-20] + data[-4:]  # the table names the chunks in another order
    for broken, message in ((data[:-1], "bytes, expected"), (data + b"x", "bytes, expected"), (swapped, "table")):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=message):
            array.load_layer(file, np.empty_like(rows))
    for wrong in (rows.astype(np.int8), rows[:, :3], np.zeros((2049, 4), np.uint8), rows[:0]):
        with pytest.raises(ValueError, match=r"found rows|rows in a shard"):
            array.encode_layer(wrong)


@pytest.mark.parametrize("shard_rows", [0, 1025, 1500])
def test_shards_are_small_or_multiples_of_an_inner_chunk(shard_rows: int) -> None:
    with pytest.raises(ValueError, match=f"{shard_rows} rows per shard"):
        RowArray("uint8", rows=5000, width=4, shard_rows=shard_rows, fill=127)
