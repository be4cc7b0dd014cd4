"""Layout of a store, known before a row is computed: layers, rows, width, encoding, arrays."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from storage_layouts.errors import CorruptError, InputError
from storage_layouts.fields import COUNT, OBJECT, SIZE, TEXT, check_fields, list_of
from storage_layouts.quantize import FILLS, check_encoding, outlier_count
from storage_layouts.zarr_arrays import INNER_ROWS, RowArray
from storage_layouts.zarr_metadata import group_metadata

FORMAT = 1


@dataclass(frozen=True)
class StoreLayout:
    """All properties of a store that are known before a model is loaded.

    Attributes:
        layers: contextual layers, ascending.
        rows: number of rows N, the same in every layer.
        dim: width D of the hidden states.
        encoding: one of `quantize.ENCODINGS`.
        rows_per_shard: rows per shard; at most 1024, or a multiple of 1024.
        outliers: number of outlier dimensions of each layer, 0 for the usual one; older stores of narrow states have 8.
        attrs: further attributes of the store, as JSON (model, revision, hashes, seed, ...).

    """

    layers: tuple[int, ...]
    rows: int
    dim: int
    encoding: str
    rows_per_shard: int
    attrs: dict[str, Any] = field(default_factory=dict)
    outliers: int = 0

    def __post_init__(self) -> None:
        check_encoding(self.encoding)
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"layers {self.layers}: expected ascending numbers from 0 on, at least one")
        if self.rows < 1 or self.dim < 1:
            raise ValueError(f"{self.rows} rows of {self.dim} dimensions: nothing to store")
        if not 0 <= self.outliers <= self.dim:
            raise ValueError(f"{self.outliers} outlier dimensions of {self.dim}")
        if self.rows_per_shard > INNER_ROWS and self.rows_per_shard % INNER_ROWS:
            raise InputError(
                f"rows per shard: found {self.rows_per_shard}, expected at most {INNER_ROWS} or a multiple of it"
            )
        reserved = set(self.own_attributes()) & set(self.attrs)
        if reserved:
            raise ValueError(f"the attributes {sorted(reserved)} are the layout's own")

    @property
    def outlier_count(self) -> int:
        """Number of outlier dimensions of each layer."""
        return self.outliers or outlier_count(self.dim)

    def arrays(self) -> dict[str, RowArray]:
        """The arrays of one layer, by the names of the fields of `quantize.Encoded`."""
        size: dict[str, Any] = {"rows": self.rows, "shard_rows": self.rows_per_shard}
        codes = self.encoding if self.encoding in ("float16", "float32") else "uint8"
        return {
            "codes": RowArray(codes, width=self.dim, fill=FILLS[self.encoding], **size),
            "outliers": RowArray("float32", width=self.outlier_count, fill="NaN", axis="outlier", **size),
            "scale": RowArray("float32", width=None, fill="NaN", **size),
            "norm": RowArray("float32", width=None, fill="NaN", **size),
        }

    def shard_bytes(self, rows: int) -> int:
        """Bytes of the array files of one shard with this number of rows, in all layers."""
        return len(self.layers) * sum(array.shard_bytes(rows) for array in self.arrays().values())

    def own_attributes(self) -> dict[str, Any]:
        """The attributes that describe the layout itself."""
        return {
            "format": FORMAT,
            "layers": list(self.layers),
            "rows": self.rows,
            "dim": self.dim,
            "encoding": self.encoding,
            "rows_per_shard": self.rows_per_shard,
            "outlier_count": self.outlier_count,
        }

    def metadata_files(self) -> dict[str, bytes]:
        """The zarr.json of every group and array, by path relative to the store."""
        files = {
            "zarr.json": group_metadata({**self.own_attributes(), **self.attrs}),
            "layers/zarr.json": group_metadata({}),
        }
        for layer in self.layers:
            files[f"{layer_folder(layer)}/zarr.json"] = group_metadata({})
            for name, array in self.arrays().items():
                files[f"{layer_folder(layer)}/{name}/zarr.json"] = array.metadata()
        return files

    @classmethod
    def from_metadata(cls, where: str, data: bytes) -> StoreLayout:
        """The layout in the bytes of a store's zarr.json. InputError (with ``where``) for another format."""
        remedy = "delete plan.json and repeat the command, or fetch the store again"
        content = json.loads(data)
        check_fields(where, content, {"attributes": OBJECT}, remedy)
        attributes = content["attributes"]
        if attributes.get("format") != FORMAT:
            raise InputError(f"{where}: store format {attributes.get('format')}, but this version reads {FORMAT}")
        own = {"layers": list_of(COUNT), "rows": SIZE, "dim": SIZE, "encoding": TEXT, "rows_per_shard": SIZE}
        check_fields(where, attributes, {**own, "outlier_count": SIZE}, remedy, "attributes")
        attrs = {key: value for key, value in attributes.items() if key not in {*own, "format", "outlier_count"}}
        fields = {key: attributes[key] for key in own} | {"layers": tuple(attributes["layers"])}
        try:
            return cls(**fields, attrs=attrs, outliers=attributes["outlier_count"])
        except ValueError as error:
            raise CorruptError(where, f"attributes: {error}", "those of a store", remedy) from None


def layer_folder(layer: int) -> str:
    """Path of a layer inside the store, for example ``layers/08``."""
    return f"layers/{layer:02d}"
