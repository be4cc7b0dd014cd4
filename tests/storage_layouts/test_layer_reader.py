"""Reading and mapping of layers: the same rows, and every damage refused, also one that keeps all checksums right."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import CorruptError
from storage_layouts.files import digest_file, json_bytes
from storage_layouts.quantize import ENCODINGS
from storage_layouts.row_pieces import RowPieces
from storage_layouts.runs import RunFolder

CODES = {False: "layers/codes/c.0.0.0", True: "layers/01/codes/c.0.0"}  # with the rows of layer 1, or only these


def rows_of(store: EmbeddingStore, layer: int = 1) -> bytes:
    return np.asarray(store.read_layer(layer).codes).tobytes()


def mapped_rows_of(store: EmbeddingStore, layer: int = 1) -> bytes:
    return store.map_layer(layer).codes.whole().numpy().tobytes()


@pytest.mark.parametrize(("rows", "dim", "per_shard"), [(50, 24, 20), (5000, 9, 2048), (4096, 5, 4096), (3, 2, 1)])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("separate", [False, True])
def test_a_mapped_layer_has_the_rows_of_a_read_one(tmp_path, builders, separate, encoding, rows, dim, per_shard):
    builders.store(tmp_path, encoding, rows, dim, per_shard, separate=separate)
    store = EmbeddingStore.open(tmp_path)
    made = []

    def allocate(shape, dtype):
        made.append(np.empty(shape, dtype))
        return made[-1]

    for (layer, ahead), expected in zip(store.read_layers((12, 1), allocate), (12, 1), strict=True):
        assert layer == expected
        read, mapped = store.read_layer(layer), store.map_layer(layer)
        for name in ("outliers", "scale", "norm"):
            assert torch.equal(getattr(mapped, name), torch.from_numpy(getattr(read, name)))
        assert torch.equal(mapped.codes.whole(), torch.from_numpy(read.codes))
        assert mapped.codes.shape == read.codes.shape
        assert np.array_equal(ahead.codes, read.codes)
        assert any(ahead.codes is array for array in made)


def test_what_is_written_to_a_mapped_layer_stays_in_memory(tmp_path, builders) -> None:
    builders.store(tmp_path)
    before = (tmp_path / CODES[False]).read_bytes()
    EmbeddingStore.open(tmp_path).map_layer(1).codes.pieces[0].zero_()
    assert (tmp_path / CODES[False]).read_bytes() == before


@pytest.mark.parametrize("read", [rows_of, mapped_rows_of])
@pytest.mark.parametrize("offset", [0, 479, 480, 483, 484, 499, -1])
def test_every_changed_byte_is_found(tmp_path, builders, read, offset: int) -> None:
    """20 rows of 24: bytes 0 to 479 are rows, then their checksum, the table, and its checksum."""
    builders.store(tmp_path, separate=True)
    file = tmp_path / CODES[True]
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptError, match=r"c\.0\.0: found .*delete receipts/00000\.json"):
        read(EmbeddingStore.open(tmp_path))


@pytest.mark.parametrize("read", [rows_of, mapped_rows_of])
@pytest.mark.parametrize("offset", [0, 479, 480, 483, 484, 963, 964, 967, 968, 983, 984, 999, -1])
def test_every_changed_byte_is_found_by_the_layers_that_it_concerns(tmp_path, builders, read, offset: int) -> None:
    """As above, but with the rows of layer 12 and their checksum between, bytes 484 to 967, and a longer table."""
    builders.store(tmp_path)
    expected = {layer: read(EmbeddingStore.open(tmp_path), layer) for layer in (1, 12)}
    file = tmp_path / CODES[False]
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)
    for layer, of_layer in ((1, range(484)), (12, range(484, 968))):
        if offset in of_layer or offset not in range(968):
            with pytest.raises(CorruptError, match=r"c\.0\.0\.0: found .*delete receipts/00000\.json"):
                read(EmbeddingStore.open(tmp_path), layer)
        else:
            assert read(EmbeddingStore.open(tmp_path), layer) == expected[layer]


@pytest.mark.parametrize("read", [rows_of, mapped_rows_of])
def test_a_whole_file_of_another_shard_or_layer_is_found(tmp_path, builders, read) -> None:
    builders.store(tmp_path, separate=True)
    for other in ("layers/01/codes/c.1.0", "layers/12/codes/c.0.0"):
        shutil.copy(tmp_path / other, tmp_path / CODES[True])
        with pytest.raises(CorruptError, match=r"layers/01/codes/c\.0\.0"):
            read(EmbeddingStore.open(tmp_path))


@pytest.mark.parametrize("read", [rows_of, mapped_rows_of])
def test_another_shard_or_two_layers_that_changed_places_are_found(tmp_path, builders, read) -> None:
    """Also with right checksums of all chunks."""
    builders.store(tmp_path)
    file = tmp_path / CODES[False]
    data, other = file.read_bytes(), (tmp_path / "layers/codes/c.0.1.0").read_bytes()
    assert len(data) == len(other)
    for wrong in (other, data[484:968] + data[:484] + data[968:]):
        file.write_bytes(wrong)
        for layer in (1, 12):
            with pytest.raises(CorruptError, match=r"layers/codes/c\.0\.0\.0"):
                read(EmbeddingStore.open(tmp_path), layer)


@pytest.mark.parametrize("read", [rows_of, mapped_rows_of])
def test_a_store_without_digests_of_chunks_is_read_by_those_of_files(tmp_path, builders, read) -> None:
    builders.store(tmp_path, rows=3000, per_shard=2048, separate=True)
    expected = read(EmbeddingStore.open(tmp_path))
    for receipt in (tmp_path / "receipts").iterdir():
        content = json.loads(receipt.read_bytes())
        for digest in content["files"].values():
            digest.pop("chunks", None)
        content.pop("crc32")
        receipt.write_bytes(json_bytes(content))
    assert read(EmbeddingStore.open(tmp_path)) == expected
    shutil.copy(tmp_path / "layers/12/codes/c.0.0", tmp_path / CODES[True])
    with pytest.raises(CorruptError, match=r"crc32"):
        read(EmbeddingStore.open(tmp_path))


@pytest.mark.parametrize("read", [rows_of, mapped_rows_of])
@pytest.mark.parametrize("separate", [False, True])
def test_a_missing_or_shorter_file_is_found(tmp_path, builders, separate: bool, read) -> None:
    builders.store(tmp_path, separate=separate)
    store = EmbeddingStore.open(tmp_path)
    file: Path = tmp_path / CODES[separate]
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(CorruptError, match="bytes"):
        read(store)
    file.unlink()
    with pytest.raises(CorruptError, match="no such file"):
        read(store)


def test_receipts_name_the_digest_of_all_checksums(tmp_path, builders) -> None:
    """It is computed here from the file as Zarr describes it: chunks with a checksum, table, checksum."""
    for separate, layers in ((False, 2), (True, 1)):
        folder, codes = tmp_path / str(separate), CODES[separate]
        builders.store(folder, rows=3000, per_shard=2048, dim=7, separate=separate)
        data = (folder / codes).read_bytes()
        size = 1024 * 7
        ends = [data[(i + 1) * size + 4 * i :][:4] for i in range(2 * layers)]
        table = data[2 * layers * (size + 4) :]
        recorded = RunFolder.open(folder).read_receipt(0).files[codes]
        assert recorded == digest_file(folder / codes)
        of_layers = (ends[i] + ends[i + 1] + table for i in range(0, 2 * layers, 2))
        assert recorded.chunks == tuple(f"{zlib.crc32(one):08x}" for one in of_layers)


@given(st.integers(1, 30), st.integers(1, 7), st.data())
def test_rows_in_pieces_are_taken_like_rows_of_a_tensor(rows: int, size: int, data: st.DataObject) -> None:
    tensor = torch.arange(rows * 3).reshape(rows, 3)
    pieces = RowPieces(tensor.split(size))
    assert (len(pieces), pieces.shape, pieces.numel(), pieces.element_size()) == (rows, tensor.shape, rows * 3, 8)
    first, stop = data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows + 3))
    assert torch.equal(pieces[first:stop], tensor[first:stop])
    some = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), max_size=20)), dtype=torch.int64)
    assert torch.equal(pieces[some], tensor[some])
