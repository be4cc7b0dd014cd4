"""The bytes of arrays against zarr-python: it writes the same and reads ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from storage_layouts.zarr_arrays import RowArray
from storage_layouts.zarr_metadata import group_metadata


def with_zarr_python(path: Path, array: RowArray) -> zarr.Array:
    """The same array as zarr-python makes it."""
    fill = float("nan") if array.fill == "NaN" else array.fill
    return zarr.create_array(
        zarr.storage.LocalStore(path),
        shape=(array.rows, *array.tail),
        dtype=array.dtype,
        chunks=(array.shard_rows, *array.tail),
        serializer=ShardingCodec(
            chunk_shape=(array.inner_rows, *array.tail),
            codecs=[BytesCodec(), Crc32cCodec()],
            index_codecs=[BytesCodec(), Crc32cCodec()],
        ),
        compressors=None,
        filters=None,
        fill_value=fill,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=["row", "dim"][: 1 + len(array.tail)],
    )


ARRAYS = [
    RowArray("uint8", rows=5000, width=24, shard_rows=2048, fill=127),
    RowArray("float16", rows=2049, width=3, shard_rows=2048, fill="NaN"),
    RowArray("float32", rows=5000, width=None, shard_rows=3072, fill="NaN"),
    RowArray("float32", rows=7, width=None, shard_rows=100, fill="NaN"),
    RowArray("uint8", rows=200, width=5, shard_rows=100, fill=0),
]


@pytest.mark.parametrize("array", ARRAYS)
def test_zarr_python_writes_the_same_bytes_and_reads_ours(rng, tmp_path: Path, array: RowArray) -> None:
    values = rng.integers(1, 100, (array.rows, *array.tail)).astype(array.dtype)
    with_zarr_python(tmp_path / "theirs", array)[:] = values
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    (ours / "zarr.json").write_bytes(array.metadata())
    for number, first in enumerate(range(0, array.rows, array.shard_rows)):
        rows = values[first : first + array.shard_rows]
        (ours / array.key(number)).write_bytes(array.encode_shard(rows))
        out = np.empty_like(rows)
        digest = array.load_shard(theirs / array.key(number), out)
        assert out.tobytes() == rows.tobytes()
        assert digest == array.chunks_digest((ours / array.key(number)).read_bytes())
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


def test_groups_are_read_by_zarr_python(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_bytes(group_metadata({"model": "tiny", "layers": [1, 2]}))
    assert dict(zarr.open_group(tmp_path, mode="r").attrs) == {"model": "tiny", "layers": [1, 2]}


def test_a_file_of_another_shape_is_refused(rng, tmp_path: Path) -> None:
    array = RowArray("uint8", rows=5000, width=4, shard_rows=2048, fill=127)
    rows = rng.integers(0, 100, (2048, 4)).astype(np.uint8)
    data = array.encode_shard(rows)
    file = tmp_path / "c.0.0"
    swapped = data[:-36] + data[-20:-4] + data[-36:-20] + data[-4:]  # the table names the chunks in another order
    for broken, message in ((data[:-1], "bytes, expected"), (data + b"x", "bytes, expected"), (swapped, "table")):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=message):
            array.load_shard(file, np.empty_like(rows))
    for wrong in (rows.astype(np.int8), rows[:, :3], np.zeros((2049, 4), np.uint8), rows[:0]):
        with pytest.raises(ValueError, match=r"found rows|rows in a shard"):
            array.encode_shard(wrong)


@pytest.mark.parametrize("shard_rows", [0, 1025, 1500])
def test_shards_are_small_or_multiples_of_an_inner_chunk(shard_rows: int) -> None:
    with pytest.raises(ValueError, match=f"{shard_rows} rows per shard"):
        RowArray("uint8", rows=5000, width=4, shard_rows=shard_rows, fill=127)
