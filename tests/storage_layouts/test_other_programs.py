"""A store is read by the other programs that know Zarr, by their own names for what it holds."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import xarray
import zarr

from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import CorruptError
from storage_layouts.files import digest_bytes, json_bytes
from storage_layouts.quantize import ENCODINGS
from storage_layouts.verification import verify

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")  # of files that are no part of Zarr
ARRAYS = {"codes": ("row", "dim"), "outliers": ("row", "outlier"), "scale": ("row",), "norm": ("row",)}


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_xarray_tensorstore_and_zarr_read_the_same_numbers(tmp_path: Path, builders, encoding: str, separate) -> None:
    builders.store(tmp_path, encoding, separate=separate)
    store = EmbeddingStore.open(tmp_path)
    where, layers = ("layers/12", [12]) if separate else ("layers", [1, 12])
    ours = [store.read_layer(layer) for layer in layers]
    dataset = xarray.open_zarr(tmp_path, group=where, consolidated=False, mask_and_scale=False)
    group = zarr.open_group(tmp_path / where, mode="r")
    for name, axes in ARRAYS.items():
        expected = np.stack([getattr(layer, name) for layer in ours])
        if separate:
            expected = expected[0]
        folder = {"driver": "file", "path": str(tmp_path / where / name)}
        theirs = tensorstore.open({"driver": "zarr3", "kvstore": folder}).result()
        assert dataset[name].dims == theirs.domain.labels == (axes if separate else ("layer", *axes))
        assert np.array_equal(theirs.read().result(), expected)
        assert np.array_equal(group[name][:], expected)
        assert np.array_equal(dataset[name].to_numpy(), expected)
    tree = xarray.open_datatree(tmp_path, engine="zarr", consolidated=False)
    of_layers = {"/layers/01", "/layers/12"} if separate else set()
    assert {node.path for node in tree.subtree} == {"/", "/layers", *of_layers}


def test_arrays_opened_by_name_or_consolidated_bring_no_warning(tmp_path: Path, builders) -> None:
    builders.store(tmp_path)
    expected = EmbeddingStore.open(tmp_path).read_layer(1).codes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(zarr.open_array(tmp_path / "layers/codes", mode="r")[0], expected)
        assert np.array_equal(zarr.open_group(tmp_path, mode="r")["layers/codes"][0], expected)
        assert {name for name, _ in zarr.open_group(tmp_path / "layers", mode="r").members()} == set(ARRAYS)
        with pytest.raises(zarr.errors.ZarrUserWarning, match="is not recognized as a component of a Zarr hierarchy"):
            list(zarr.open_group(tmp_path, mode="r").members())
    zarr.consolidate_metadata(tmp_path)  # which lists the files itself
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [name for name, _ in zarr.open_group(tmp_path, mode="r").members()] == ["layers"]


def test_a_store_whose_metadata_were_consolidated_is_as_good_as_before(tmp_path: Path, builders) -> None:
    builders.store(tmp_path)
    before = EmbeddingStore.open(tmp_path)
    zarr.consolidate_metadata(tmp_path)
    zarr.consolidate_metadata(tmp_path / "layers")
    assert xarray.open_datatree(tmp_path, engine="zarr").attrs["model"] == "tiny"
    assert verify(tmp_path).problems == []
    after = EmbeddingStore.open(tmp_path)
    assert after.layout == before.layout
    assert np.array_equal(after.read_layer(1).codes, before.read_layer(1).codes)

    file = tmp_path / "zarr.json"
    file.write_bytes(file.read_bytes().replace(b'"tiny"', b'"tyni"', 1))
    assert [problem.file for problem in verify(tmp_path).problems] == ["zarr.json"]
    with pytest.raises(CorruptError, match=r"zarr\.json: found"):
        EmbeddingStore.open(tmp_path)


def test_a_store_with_the_axis_names_of_earlier_versions_is_read(tmp_path: Path, builders) -> None:
    builders.store(tmp_path, separate=True)
    plan = json.loads((tmp_path / "plan.json").read_bytes())
    for layer in ("01", "12"):
        name = f"layers/{layer}/outliers/zarr.json"
        file = tmp_path / name
        file.write_bytes(file.read_bytes().replace(b'"outlier"', b'"dim"'))
        plan["files"][name] = {"bytes": file.stat().st_size, "crc32": digest_bytes(file.read_bytes()).crc32}
    del plan["crc32"]
    (tmp_path / "plan.json").write_bytes(json_bytes(plan))
    renew_receipts(tmp_path)
    assert verify(tmp_path).problems == []
    EmbeddingStore.open(tmp_path).read_layer(1)


def renew_receipts(path: Path) -> None:
    """Give the receipts the id of the plan as it is now."""
    identity = hashlib.sha256((path / "plan.json").read_bytes()).hexdigest()[:16]
    for file in (path / "receipts").glob("*.json"):
        receipt = json.loads(file.read_bytes()) | {"plan_id": identity}
        del receipt["crc32"]
        file.write_bytes(json_bytes(receipt))
