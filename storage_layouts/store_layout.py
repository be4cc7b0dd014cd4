"""Layout of a store, known before a row is computed: layers, rows, width, encoding, arrays."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from storage_layouts.errors import CorruptError, InputError
from storage_layouts.fields import COUNT, OBJECT, SIZE, TEXT, check_fields, list_of, shown
from storage_layouts.quantize import FILLS, check_encoding, outlier_count
from storage_layouts.zarr_arrays import RowArray
from storage_layouts.zarr_metadata import INNER_ROWS, group_metadata

FORMAT = 2
SEPARATE_LAYERS = 1
"""The format of stores with arrays for each layer: those of earlier versions, and others if a user asks for it."""
LAYERS, OUTLIER_DIMS = "layers", "outlier_dims"


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
        separate_layers: each layer has arrays and files of its own. Otherwise a shard is one file of each array.
        attrs: further attributes of the store, as JSON (model, revision, hashes, seed, ...).

    """

    layers: tuple[int, ...]
    rows: int
    dim: int
    encoding: str
    rows_per_shard: int
    attrs: dict[str, Any] = field(default_factory=dict)
    outliers: int = 0
    separate_layers: bool = False

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
        """The arrays of all layers, or of each one, by the names of the fields of `quantize.Encoded`."""
        layers = None if self.separate_layers else len(self.layers)
        size: dict[str, Any] = {"rows": self.rows, "shard_rows": self.rows_per_shard, "layers": layers}
        codes = self.encoding if self.encoding in ("float16", "float32") else "uint8"
        return {
            "codes": RowArray(codes, width=self.dim, fill=FILLS[self.encoding], **size),
            "outliers": RowArray("float32", width=self.outlier_count, fill="NaN", axis="outlier", **size),
            "scale": RowArray("float32", width=None, fill="NaN", **size),
            "norm": RowArray("float32", width=None, fill="NaN", **size),
        }

    def array_folder(self, layer: int, name: str) -> str:
        """Path of the array with the rows of a layer, for example ``layers/codes``, or ``layers/08/codes``."""
        return f"{layer_folder(layer)}/{name}" if self.separate_layers else f"{LAYERS}/{name}"

    def place(self, layer: int) -> int:
        """Place of a layer in the files of its arrays."""
        return 0 if self.separate_layers else self.layers.index(layer)

    def outlier_file(self, layer: int) -> str:
        """Path of the file with the outlier dimensions of a layer."""
        folder, name = layer_folder(layer), f"{layer:02d}.json"
        return f"{folder}/{OUTLIER_DIMS}.json" if self.separate_layers else f"{OUTLIER_DIMS}/{name}"

    def patterns(self, layers: Sequence[int]) -> list[str]:
        """Patterns of the paths of the files that hold some layers."""
        found = {f"{self.array_folder(layer, name)}/*" for layer, name in product(layers, self.arrays())}
        return sorted(found | {self.outlier_file(layer) for layer in layers})

    def shard_bytes(self, rows: int) -> int:
        """Bytes of the array files of one shard with this number of rows, in all layers."""
        times = len(self.layers) if self.separate_layers else 1
        return times * sum(array.shard_bytes(rows) for array in self.arrays().values())

    @property
    def layer_bytes(self) -> int:
        """Bytes of the rows of one layer in memory."""
        widths = {name: math.prod(array.tail) * array.little_endian.itemsize for name, array in self.arrays().items()}
        return self.rows * sum(widths.values())

    def own_attributes(self) -> dict[str, Any]:
        """The attributes that describe the layout itself."""
        return {
            "format": SEPARATE_LAYERS if self.separate_layers else FORMAT,
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
            f"{LAYERS}/zarr.json": group_metadata({}),
        }
        if self.separate_layers:
            files |= {f"{layer_folder(layer)}/zarr.json": group_metadata({}) for layer in self.layers}
        for layer, (name, array) in product(self.layers, self.arrays().items()):
            files[f"{self.array_folder(layer, name)}/zarr.json"] = array.metadata()
        return files

    @classmethod
    def from_metadata(cls, where: str, data: bytes) -> StoreLayout:
        """The layout in the bytes of a store's zarr.json. InputError (with ``where``) for another format."""
        remedy = "delete plan.json and repeat the command, or fetch the store again"
        content = json.loads(data)
        check_fields(where, content, {"attributes": OBJECT}, remedy)
        attributes = content["attributes"]
        if attributes.get("format") not in (SEPARATE_LAYERS, FORMAT):
            reads = f"this version reads {SEPARATE_LAYERS} and {FORMAT}"
            raise InputError(f"{where}: store format {shown(attributes.get('format'))}, but {reads}")
        own = {"layers": list_of(COUNT), "rows": SIZE, "dim": SIZE, "encoding": TEXT, "rows_per_shard": SIZE}
        check_fields(where, attributes, {**own, "outlier_count": SIZE}, remedy, "attributes")
        attrs = {key: value for key, value in attributes.items() if key not in {*own, "format", "outlier_count"}}
        fields = {key: attributes[key] for key in own} | {"layers": tuple(attributes["layers"])}
        separate = attributes["format"] == SEPARATE_LAYERS
        try:
            return cls(**fields, attrs=attrs, outliers=attributes["outlier_count"], separate_layers=separate)
        except ValueError as error:
            raise CorruptError(where, f"attributes: {error}", "those of a store", remedy) from None


def is_needed(name: str, layers: Collection[int]) -> bool:
    """Whether some layers of a store cannot be read without the file with this path; see `StoreLayout`."""
    folder, *rest = name.split("/")
    if folder not in (LAYERS, OUTLIER_DIMS):
        return True
    number = rest[0].removesuffix(".json")
    return int(number) in layers if number.isdecimal() else bool(layers)


def layer_folder(layer: int) -> str:
    """Path of a layer in a store of separate layers, for example ``layers/08``."""
    return f"{LAYERS}/{layer:02d}"
