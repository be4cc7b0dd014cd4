"""Reading and mapping the layers of a store; every byte is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from storage_layouts.errors import CorruptError, IncompleteError
from storage_layouts.files import FileDigest, check_file
from storage_layouts.machine_errors import reading_expected
from storage_layouts.mapped_memory import let_go
from storage_layouts.quantize import Encoded, fill_in
from storage_layouts.row_pieces import RowPieces
from storage_layouts.run_identity import receipt_remedy
from storage_layouts.shards import Receipt, shard_name
from storage_layouts.store_layout import StoreLayout
from storage_layouts.zarr_arrays import RowArray

READERS = 4  # threads; one thread cannot saturate a fast disk
T = TypeVar("T")

Allocate: TypeAlias = Callable[[tuple[int, ...], Any], np.ndarray]
"""Returns an uninitialised array of a shape and dtype, as `np.empty` does."""


def fresh_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array allocated by torch: numpy requests huge pages, which takes seconds where memory is fragmented."""
    import torch

    return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype).numpy()


class LayerReader:
    """Reads the arrays of a store.

    Its methods raise IncompleteError for a row whose shard has no receipt, CorruptError if a file is missing or
    changed or a row holds fill values, and MachineError if the machine cannot read a file.
    """

    def __init__(self, path: Path, layout: StoreLayout, receipts: Mapping[int, Receipt]) -> None:
        self.path, self.layout, self.receipts = path, layout, receipts
        self.arrays = layout.arrays()

    def digest(self, name: str, shard: int) -> FileDigest:
        """Digest of a file in the receipt of its shard."""
        receipt = self.receipts.get(shard)
        if receipt is None:
            raise IncompleteError(
                f"{self.path}: shard {shard} has no receipt yet; repeat the command that makes this store"
            )
        if name not in receipt.files:
            file = self.path / "receipts" / f"{shard_name(shard)}.json"
            raise CorruptError(file, "no digest", f"one of {name}", receipt_remedy(shard))
        return receipt.files[name]

    def read(
        self, layer: int, first: int, stop: int, allocate: Allocate, names: Iterable[str]
    ) -> dict[str, np.ndarray]:
        """Rows [first, stop) of some arrays, by name, in arrays made by ``allocate``; files are read in parallel."""
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
        """Yields the layers in order; the next one is read in the background."""
        with ThreadPoolExecutor(1) as pool:
            coming: tuple[int, Future[Encoded]] | None = None
            for layer in layers:
                ready, coming = coming, (layer, pool.submit(read, layer))
                if ready:
                    yield ready[0], ready[1].result()
                    del ready  # may be gigabytes
            if coming:
                yield coming[0], coming[1].result()

    def map_codes(self, layer: int, resident: bool) -> RowPieces:
        """All codes of a layer as memory maps of their files; unless `resident`, each is let go once it is checked."""
        import torch

        size = self.layout.rows_per_shard
        starts = range(0, self.layout.rows, size)
        with ThreadPoolExecutor(READERS) as pool:
            shards = list(pool.map(lambda start: self._map_shard(layer, start // size, resident), starts))
        return RowPieces([torch.from_numpy(piece) for shard in shards for piece in shard], mapped=True)

    def _map_shard(self, layer: int, index: int, resident: bool) -> list[np.ndarray]:
        rows = min(self.layout.rows_per_shard, self.layout.rows - index * self.layout.rows_per_shard)
        pieces = _ShardFile(self, layer, "codes", index).mapped(rows)
        if not resident:
            for piece in pieces:
                let_go(piece.ctypes.data, piece.nbytes)
        return pieces

    def _read_shard(self, layer: int, name: str, index: int, first: int, out: np.ndarray) -> None:
        """Read the rows of one shard into ``out``, whose first row is row ``first`` of the layer."""
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
    """One layer in one file of one array, with its digest in the receipt."""

    def __init__(self, reader: LayerReader, layer: int, name: str, index: int) -> None:
        self.array: RowArray = reader.arrays[name]
        self.name, self.encoding = name, reader.layout.encoding
        key = f"{reader.layout.array_folder(layer, name)}/{self.array.key(index)}"
        self.place = reader.layout.place(layer)
        self.path, self.digest, self.remedy = reader.path / key, reader.digest(key, index), receipt_remedy(index)

    def read_into(self, rows: np.ndarray) -> None:
        """Read all rows. CorruptError if a small array holds fill values, that is, a row that was never written.

        Codes are checked by the code that decodes them: it would take as long as reading them.
        """
        self._checked(lambda: (None, self.array.load_layer(self.path, rows, self.place)))
        if self.name != "codes" and (problem := fill_in(self.name, rows, self.encoding)):
            raise CorruptError(self.path, problem, "numbers", self.remedy)

    def mapped(self, rows: int) -> list[np.ndarray]:
        """All rows as views of the file, one view for each inner chunk."""
        chunks = self._checked(lambda: self.array.map_layer(self.path, rows, self.place))
        full, rest = divmod(rows, self.array.inner_rows)
        return [*chunks[:full], *([chunks[full, :rest]] if rest else [])]

    def _checked(self, read: Callable[[], tuple[T, str]]) -> T:
        """The value of ``read``, whose second result must be the recorded digest of the layer's chunks."""
        recorded = self.digest.chunks[self.place] if self.place < len(self.digest.chunks) else None
        if recorded is None:  # an older store, which recorded only the digest of the whole file
            check_file(self.path, self.digest, self.remedy)
        try:
            with reading_expected(self.path, self.digest, self.remedy):
                value, found = read()
        except ValueError as error:  # not a shard file
            raise CorruptError(self.path, error, recorded or self.digest, self.remedy) from None
        if recorded not in (None, found):
            raise CorruptError(self.path, found, recorded, self.remedy)
        return value
