"""Rows of a store's layers, read or mapped as fast as the disk gives them, every byte checked on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from storage_layouts.errors import CorruptError, IncompleteError
from storage_layouts.files import FileDigest, check_size, reading
from storage_layouts.quantize import Encoded, fill_in
from storage_layouts.row_pieces import RowPieces
from storage_layouts.run_identity import receipt_remedy
from storage_layouts.shards import Receipt
from storage_layouts.store_layout import StoreLayout, layer_folder
from storage_layouts.zarr_arrays import RowArray

READERS = 4  # threads; one alone does not keep a fast disk busy

Allocate: TypeAlias = Callable[[tuple[int, ...], Any], np.ndarray]
"""Makes an array of a shape and dtype, with anything in it, as `np.empty` does."""


def fresh_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array by torch: numpy asks for huge pages, and where memory is in pieces, making those takes seconds."""
    return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype).numpy()


class LayerReader:
    """Reads the arrays of a store.

    Its methods raise IncompleteError for a row whose shard has no receipt, and CorruptError if a file is missing or
    changed, or a row holds fill values; MachineError if the machine cannot read a file.
    """

    def __init__(self, path: Path, layout: StoreLayout, receipts: Mapping[int, Receipt]) -> None:
        self.path, self.layout, self.receipts = path, layout, receipts
        self.arrays = layout.arrays()

    def digest(self, name: str, shard: int) -> FileDigest:
        """What the receipt of a shard says of one of its files."""
        receipt = self.receipts.get(shard)
        if receipt is None:
            raise IncompleteError(
                f"{self.path}: shard {shard} has no receipt yet; repeat the command that makes this store"
            )
        if name not in receipt.files:
            file = self.path / "receipts" / f"{shard:05d}.json"
            raise CorruptError(file, "no digest", f"one of {name}", receipt_remedy(shard))
        return receipt.files[name]

    def read(
        self, layer: int, first: int, stop: int, allocate: Allocate, names: Iterable[str]
    ) -> dict[str, np.ndarray]:
        """Rows of some arrays, by name, in arrays made by ``allocate``; several files are read at once."""
        arrays = {name: self.arrays[name] for name in names}
        parts = {name: allocate((stop - first, *array.tail), array.little_endian) for name, array in arrays.items()}
        size = self.layout.rows_per_shard
        indices = range(first // size, -(-stop // size)) if stop > first else range(0)
        tasks = product(parts, indices)
        with ThreadPoolExecutor(READERS) as pool:
            # list: raises the first error here
            list(pool.map(lambda task: self._read_shard(layer, task[0], task[1], first, parts[task[0]]), tasks))
        return parts

    def ahead(self, layers: Iterable[int], read: Callable[[int], Encoded]) -> Iterator[tuple[int, Encoded]]:
        """Layers one after the other; while one is used, the next is already being read."""
        with ThreadPoolExecutor(1) as pool:
            coming: tuple[int, Future[Encoded]] | None = None
            for layer in layers:
                ready, coming = coming, (layer, pool.submit(read, layer))
                if ready:
                    yield ready[0], ready[1].result()
                    del ready  # may be gigabytes
            if coming:
                yield coming[0], coming[1].result()

    def map_codes(self, layer: int) -> RowPieces:
        """All codes of a layer as views of their files."""
        size = self.layout.rows_per_shard
        starts = range(0, self.layout.rows, size)
        with ThreadPoolExecutor(READERS) as pool:
            shards = list(pool.map(lambda start: self._map_shard(layer, start // size), starts))
        return RowPieces([torch.from_numpy(piece) for shard in shards for piece in shard])

    def _map_shard(self, layer: int, index: int) -> list[np.ndarray]:
        file = _ShardFile(self, layer, "codes", index)
        rows = min(self.layout.rows_per_shard, self.layout.rows - index * self.layout.rows_per_shard)
        if file.digest.chunks is None:  # of a store that was written before there were any
            codes = np.empty((rows, *file.array.tail), file.array.little_endian)
            file.read_into(codes)
            return np.split(codes, range(file.array.inner_rows, rows, file.array.inner_rows))
        return file.mapped(rows)

    def _read_shard(self, layer: int, name: str, index: int, first: int, out: np.ndarray) -> None:
        """Read the rows of one shard into their place in ``out``, which begins with row ``first``."""
        file = _ShardFile(self, layer, name, index)
        start = index * file.array.shard_rows
        stop = min(start + file.array.shard_rows, self.layout.rows)
        low, high = max(start, first), min(stop, first + len(out))
        place = out[low - first : high - first]
        whole = place if len(place) == stop - start else np.empty((stop - start, *out.shape[1:]), out.dtype)
        file.read_into(whole)
        if whole is not place:
            place[:] = whole[low - start : high - start]


class _ShardFile:
    """One file of one array, and what its receipt says of it."""

    def __init__(self, reader: LayerReader, layer: int, name: str, index: int) -> None:
        self.array: RowArray = reader.arrays[name]
        self.name, self.encoding = name, reader.layout.encoding
        key = f"{layer_folder(layer)}/{name}/{self.array.key(index)}"
        self.path, self.digest, self.remedy = reader.path / key, reader.digest(key, index), receipt_remedy(index)

    def read_into(self, rows: np.ndarray) -> None:
        """Read all rows. By the digest of the chunks where there is one, because that is faster."""
        if self.digest.chunks is None:
            self._compare(lambda: self.array.read_shard(self.path, rows), self.digest)
        else:
            self._compare(lambda: self.array.load_shard(self.path, rows), self.digest.chunks)
        self._refuse_fill(rows)

    def mapped(self, rows: int) -> list[np.ndarray]:
        """All rows as views of the file, one of each inner chunk."""
        chunks: list[np.ndarray] = []

        def read() -> str:
            values, digest = self.array.map_shard(self.path, rows)
            chunks.append(values)
            return digest

        self._compare(read, self.digest.chunks)
        full, rest = divmod(rows, self.array.inner_rows)
        return [*chunks[0][:full], *([chunks[0][full, :rest]] if rest else [])]

    def _compare(self, read: Callable[[], object], recorded: object) -> None:
        check_size(self.path, self.digest, self.remedy)
        try:
            with reading(self.path):
                found = read()
        except (OSError, ValueError) as error:  # gone meanwhile, or not a shard file
            found = error
        if found != recorded:
            raise CorruptError(self.path, found, recorded, self.remedy)

    def _refuse_fill(self, rows: np.ndarray) -> None:
        """A row that was never written has fills in its small arrays; its codes are left to those who decode them.

        To look at the codes takes as long as to read them, and every search does it anyway (`QuantizedLayer.reach`).
        """
        if self.name == "codes":
            return
        problem = fill_in(self.name, rows, self.encoding)
        if problem:
            raise CorruptError(self.path, problem, "numbers", self.remedy)
