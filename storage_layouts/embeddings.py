"""The EmbeddingStore: contextual embeddings of a corpus as a Zarr v3 group that is also a run folder.

    store.zarr/zarr.json                attributes of the store
      layers/{codes,outliers,scale,norm}/c.0.12...   of all layers, one file per shard; see quantize.Encoded
      outlier_dims/08.json              the outlier dimensions of a layer
      rows/part-00012.parquet           token, sentence, position and characters of each row
      sentences.parquet
      run.json plan.json receipts/      see runs.py

The planning writes all files but the array shards, which the workers write together with their receipts. Stores of
earlier versions, and those for which a user asks for it, have separate layers: layers/08/codes/c.12.0 and
layers/08/outlier_dims.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from storage_layouts.errors import CorruptError, InputError
from storage_layouts.fields import COUNT, NUMBER, Kind, check_fields, list_of
from storage_layouts.files import (
    FileDigest,
    check_file,
    digest_file,
    json_bytes,
    publish_first,
    read_json,
    write_atomic,
)
from storage_layouts.layer_reader import Allocate, LayerReader, fresh_array
from storage_layouts.quantize import Encoded, fill_among
from storage_layouts.row_tables import ROW_SCHEMA, SENTENCE_SCHEMA
from storage_layouts.run_identity import receipt_remedy
from storage_layouts.runs import Plan, Receipt, RunFolder, Shard
from storage_layouts.shard_file import ShardFile, shard_file
from storage_layouts.shards import PLAN_REMEDY, part_name
from storage_layouts.store_layout import StoreLayout, is_needed
from storage_layouts.tables import parse_table

STAGE = "extract"

WRITERS = 4
"""Number of threads that write a shard; they mostly wait for the disk."""
WAITING = 8
"""Most layers that are encoded and not yet written."""

SINK_RATIO = "sink_ratio"
"""Attribute of a store that leaves attention sinks out of searches: how many times the median norm of its layer a
state has to have, in any layer of the store, to be one. Stores that keep sinks lack it, and those from before it."""


class EmbeddingStore:
    """A store on disk; `open` it.

    Attributes:
        path: the folder.
        run: the same folder as a run.
        layout: its `StoreLayout`, whose fields are also here: layers, rows, dim, encoding, attrs.

    """

    def __init__(self, run: RunFolder, layout: StoreLayout, receipts: dict[int, Receipt]) -> None:
        self.run, self.layout, self.path = run, layout, run.path
        self.layers, self.rows, self.dim = layout.layers, layout.rows, layout.dim
        self.encoding, self.attrs = layout.encoding, layout.attrs
        self._arrays = layout.arrays()
        self._reader = LayerReader(run.path, layout, receipts)

    @classmethod
    def write_skeleton(cls, path: Path | str, layout: StoreLayout) -> dict[str, FileDigest]:
        """Write the zarr.json files of a store. Returns their digests by path relative to ``path``, for the plan."""
        return {name: write_atomic(Path(path) / name, data) for name, data in layout.metadata_files().items()}

    @classmethod
    def open(
        cls, path: Path | str, allow_incomplete: bool = False, layers: Iterable[int] | None = None
    ) -> EmbeddingStore:
        """Open a store: check its plan, receipts and the sizes of all files.

        Digests of zarr.json are checked here, those of other files when they are read.

        Args:
            path: the store's folder.
            allow_incomplete: also open a store that is still being written; reading a row without a receipt raises
                IncompleteError.
            layers: the layers that will be read; the files of the others may be missing. By default all.

        Raises:
            InputError: no store, or of a newer format.
            IncompleteError: shards are missing.
            CorruptError: a file is missing or damaged.

        """
        run = RunFolder.open(path, STAGE)
        chosen = None if layers is None else set(layers)
        receipts = run.check_sizes(allow_incomplete, lambda name: chosen is None or is_needed(name, chosen))
        plan = run.require_plan()
        for name in plan.files:
            if name.rpartition("/")[2] == "zarr.json":
                run.read_plan_file(name)
        layout = StoreLayout.from_metadata(str(run.path), run.read_plan_file("zarr.json"))
        if (plan.items, plan.items_per_shard) != (layout.rows, layout.rows_per_shard):
            found = f"{layout.rows} rows in shards of {layout.rows_per_shard}"
            planned = f"{plan.items} in shards of {plan.items_per_shard} as in plan.json"
            raise CorruptError(run.path / "zarr.json", found, planned, PLAN_REMEDY)
        return cls(run, layout, receipts)

    # Writing

    def set_outlier_dims(self, layer: int, dims: Iterable[int], median_norm: float = np.nan) -> np.ndarray:
        """Set the outlier dimensions and the norm of sinks of a layer, unless another worker was faster.

        `median_norm` is that of the states that `dims` were chosen on; see `sink_norm`. Returns int32 [K], the outlier
        dimensions to encode with: those of the first worker.
        """
        count = self.layout.outlier_count
        chosen = [int(dim) for dim in dims]
        if len(chosen) != count or chosen != sorted(set(chosen)) or not all(0 <= d < self.dim for d in chosen):
            raise ValueError(f"outlier dimensions {chosen}: expected {count} ascending numbers below {self.dim}")
        ratio = self.attrs.get(SINK_RATIO)
        if ratio is not None and not median_norm > 0:
            raise ValueError(f"median norm {median_norm} of layer {layer}: expected more than 0, as sinks are left out")
        return self._set_calibration(layer, chosen, ratio and ratio * median_norm)

    def take_calibration(self, layer: int, dims: np.ndarray, sink_norm: float) -> np.ndarray:
        """Set the outlier dimensions and the norm of sinks of a layer to those of other stores; returns as above."""
        return self._set_calibration(layer, dims.tolist(), None if np.isinf(sink_norm) else sink_norm)

    def _set_calibration(self, layer: int, dims: list[int], sink_norm: float | None) -> np.ndarray:
        sinks = {} if sink_norm is None else {"sink_norm": sink_norm}
        publish_first(self._outlier_file(layer), json_bytes({"layer": layer, "dims": dims, **sinks}))
        return self.outlier_dims(layer)

    def _outlier_file(self, layer: int) -> Path:
        if layer not in self.layers:
            raise InputError(f"{self.path}: no layer {layer}; it has {', '.join(map(str, self.layers))}")
        return self.path / self.layout.outlier_file(layer)

    def write_shard(self, shard: Shard, layers: Iterable[tuple[int, Encoded]]) -> dict[str, FileDigest]:
        """Write the rows of one work shard; while a layer is computed, the ones before it are written.

        Args:
            shard: of the run's plan.
            layers: every layer of the store with its rows (numpy or torch), in any order. The outlier dimensions of the
                layer are set.

        Returns:
            Digests by path relative to the store, for the receipt.

        Raises:
            ValueError: wrong layers, wrong shape or dtype, or a fill value among the data.

        """
        if shard != Plan(self.rows, self.layout.rows_per_shard).shard(shard.index):
            raise ValueError(f"{shard} is not a shard of {self.rows} rows by {self.layout.rows_per_shard}")
        files: dict[str, FileDigest] = {}
        with ExitStack() as stack, ThreadPoolExecutor(WRITERS) as pool:
            together = {} if self.layout.separate_layers else self._shard_files(self.layers[0], shard, stack)
            written: list[Future[dict[str, FileDigest]]] = []
            found: list[int] = []
            for layer, encoded in layers:
                written.append(pool.submit(self._write_layer, layer, shard, encoded, together))
                found.append(layer)
                if len(written) > WAITING:
                    written[-WAITING].result()
            for digests in written:
                files |= digests.result()
            if sorted(found) != list(self.layers):
                raise ValueError(f"{shard}: found layers {found}, expected {list(self.layers)}")
        return files | _digests(together)

    def _shard_files(self, layer: int, shard: Shard, until: ExitStack) -> dict[str, ShardFile]:
        """New files for the rows of a layer, by the names of their arrays."""
        folders = {name: self.layout.array_folder(layer, name) for name in self._arrays}
        return {
            name: until.enter_context(
                shard_file(self.path, f"{folders[name]}/{array.key(shard.index)}", array, shard.items)
            )
            for name, array in self._arrays.items()
        }

    def _write_layer(
        self, layer: int, shard: Shard, encoded: Encoded, together: dict[str, ShardFile]
    ) -> dict[str, FileDigest]:
        """Write a layer into the open files of all layers, if there are any, or into files of its own.

        Returns the digests of the files that are complete.
        """
        file = self._outlier_file(layer)
        encoded = encoded.numpy()
        for name, array in self._arrays.items():
            part, shape = getattr(encoded, name), (shard.items, *array.tail)
            if (part.dtype, part.shape) != (array.little_endian, shape):
                expected = f"expected {array.dtype} {list(shape)} for {shard}"
                raise ValueError(f"{name}: found {part.dtype} {list(part.shape)}, {expected}")
        problem = fill_among(encoded, self.encoding)
        if problem:
            raise ValueError(f"layer {layer}, {shard}: {problem}")
        self.outlier_dims(layer)  # raises CorruptError for a damaged file before its digest is recorded
        digests = {file.relative_to(self.path).as_posix(): digest_file(file)}
        with ExitStack() as stack:
            own = {} if together else self._shard_files(layer, shard, stack)
            for name, open_file in (together or own).items():
                open_file.write(self.layout.place(layer), getattr(encoded, name))
        return digests | _digests(own)

    # Reading

    def outlier_dims(self, layer: int) -> np.ndarray:
        """The outlier dimensions of a layer, int32 [K] ascending; see `quantize.Encoded.outliers`."""
        return np.array(self._calibration(layer)["dims"], dtype=np.int32)

    def sink_norm(self, layer: int) -> float:
        """The norm from which on a state of a layer is that of an attention sink; infinite where sinks are kept."""
        return float(self._calibration(layer).get("sink_norm", np.inf))

    @cached_property
    def sinks(self) -> np.ndarray:
        """Rows that are attention sinks, int64 ascending: their states say nothing of their words."""
        if SINK_RATIO not in self.attrs:
            return np.empty(0, np.int64)
        plan = Plan(self.rows, self.layout.rows_per_shard)
        found: list[int] = []
        for index, receipt in sorted(self._reader.receipts.items()):
            shard = plan.shard(index)
            rows = receipt.facts.get("sinks")  # a worker of an older version writes none
            if rows is None or not all(shard.first <= row < shard.stop for row in rows):
                names = f"the sinks among rows {shard.first} to {shard.stop - 1}"
                raise CorruptError(self.path / "receipts", f"sinks = {rows!r:.60}", names, receipt_remedy(index))
            found += rows
        return np.unique(np.array(found, np.int64))

    @property
    def candidates(self) -> int:
        """Number of rows that a search may find in each layer; an upper bound while shards are missing."""
        return self.rows - len(self.sinks)

    def _calibration(self, layer: int) -> dict[str, Any]:
        file, remedy = self._outlier_file(layer), "delete it and all receipts, and repeat the command"
        if self._reader.receipts:
            shard = min(self._reader.receipts)
            remedy = receipt_remedy(shard)
            check_file(file, self._reader.digest(file.relative_to(self.path).as_posix(), shard), remedy)
        content = read_json(file, remedy)
        width = Kind(f"below {self.dim}", lambda dim: COUNT.fits(dim) and dim < self.dim)
        check_fields(
            file,
            content,
            {"dims": list_of(width), "sink_norm": replace(NUMBER, optional=SINK_RATIO not in self.attrs)},
            remedy,
        )
        return content

    def read_layer(self, layer: int, allocate: Allocate = fresh_array) -> Encoded:
        """All rows of a layer as numpy arrays; see `read_rows`."""
        return self.read_rows(layer, 0, self.rows, allocate)

    def read_layers(self, layers: Iterable[int], allocate: Allocate = fresh_array) -> Iterator[tuple[int, Encoded]]:
        """Layers with their rows as in `read_layer`; the next one is read in the background."""
        return self._reader.ahead(layers, lambda layer: self.read_layer(layer, allocate))

    def map_layer(self, layer: int, resident: bool = True) -> Encoded:
        """All rows of a layer as torch tensors; the codes are `RowPieces` of memory-mapped files.

        Checked as in `read_rows`, but the codes are not copied, and processes on one machine share the memory. For
        files on a local disk that are not modified in place. Unless `resident`, no more than a few files of codes are
        in memory at a time.
        """
        import torch

        self._outlier_file(layer)
        names = [name for name in self._arrays if name != "codes"]
        small = self._reader.read(layer, 0, self.rows, fresh_array, names)
        return Encoded(
            self._reader.map_codes(layer, resident), **{name: torch.from_numpy(part) for name, part in small.items()}
        )

    def read_rows(self, layer: int, first: int, stop: int, allocate: Allocate = fresh_array) -> Encoded:
        """Rows [``first``, ``stop``) of a layer, as numpy arrays.

        Every file with one of these rows is read completely and compared with its receipt. The arrays are made by
        ``allocate(shape, dtype)``, for example in pinned memory.

        Raises:
            InputError: no such layer.
            IndexError: no such rows.
            IncompleteError: a row's shard has no receipt.
            CorruptError: a file is missing or changed, or a row holds fill values.

        """
        self._outlier_file(layer)
        if not 0 <= first <= stop <= self.rows:
            raise IndexError(f"rows {first} to {stop} of {self.rows}")
        return Encoded(**self._reader.read(layer, first, stop, allocate, self._arrays))

    def row_table(self, columns: list[str] | None = None) -> pa.Table:
        """All or some columns of `ROW_SCHEMA`, in row order. CorruptError if a part is missing or changed."""
        wanted = list(columns or ROW_SCHEMA.names)
        names = sorted(name for name in self.run.require_plan().files if name.startswith("rows/part-"))
        asked = wanted if "row" in wanted else ["row", *wanted]
        tables = [parse_table(self.path / name, self.run.read_plan_file(name), ROW_SCHEMA, asked) for name in names]
        table = pa.concat_tables([ROW_SCHEMA.empty_table().select(asked), *tables])
        if not np.array_equal(table.column("row").to_numpy(), np.arange(self.rows)):
            found, expected = f"{len(table)} rows", f"0 to {self.rows - 1} in order"
            raise CorruptError(self.path / "rows", found, expected, PLAN_REMEDY)
        return table.select(wanted)

    def rows_of(self, shard: Shard) -> pa.Table:
        """The row table of one shard. CorruptError if the part is missing or changed."""
        name = part_name("rows", shard.index)
        return parse_table(self.path / name, self.run.read_plan_file(name), ROW_SCHEMA)

    @cached_property
    def _sentences(self) -> pa.Table:
        name = "sentences.parquet"
        table = parse_table(self.path / name, self.run.read_plan_file(name), SENTENCE_SCHEMA)
        # Arrow takes nothing out of more than 2 GiB of text with offsets of 32 bits.
        return table.set_column(1, "text", table["text"].cast(pa.large_string())).combine_chunks()

    def sentences(self) -> pa.Table:
        """The sentences of all rows: columns sentence_id (ascending) and text."""
        return self._sentences

    def sentence_texts(self, ids: Iterable[int]) -> list[str]:
        """Texts of sentences, in the order of ``ids``. KeyError if the store has no such sentence."""
        asked = np.fromiter(ids, np.int64)
        known = self._sentences.column("sentence_id").to_numpy()
        places = np.searchsorted(known, asked)
        wrong = (places >= len(known)) | (known[np.minimum(places, len(known) - 1)] != asked)
        if wrong.any():
            raise KeyError(f"no sentence {asked[wrong][0]} in {self.path}")
        return self._sentences.column("text").take(pa.array(places)).to_pylist()


def _digests(files: dict[str, ShardFile]) -> dict[str, FileDigest]:
    return {file.key: file.digest for file in files.values()}
