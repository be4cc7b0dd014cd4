"""Writing of a shard file, layer by layer."""

from __future__ import annotations

import contextlib
import functools
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from storage_layouts.files import FileDigest, NewFile, atomic_file
from storage_layouts.zarr_arrays import RowArray

_POLYNOMIAL = 0xEDB88320  # of CRC-32; the highest bit is the coefficient of x^0
_ONE = 1 << 31


class ShardFile:
    """A shard file that is being written; see `shard_file`.

    Attributes:
        key: its path relative to the store.
        digest: of the whole file, when it is written.

    """

    def __init__(self, key: str, file: NewFile, array: RowArray, rows: int) -> None:
        self.key = key
        self._file, self._array, self._rows = file, array, rows
        self._table = array.table(rows)
        self._layers: dict[int, tuple[int, str]] = {}
        self.digest: FileDigest

    def write(self, place: int, rows: np.ndarray) -> None:
        """Write the rows of the layer with this place in the file. ValueError as `RowArray.encode_layer`.

        Several threads may write the layers, in any order.
        """
        chunks = self._array.encode_layer(rows)
        data = chunks.data.cast("B")
        self._file.write_at(data, self._array.layer_offset(place, self._rows))
        self._layers[place] = zlib.crc32(data), self._array.layer_digest(chunks, self._table)

    def end(self) -> None:
        """Write the table behind the layers."""
        count = self._array.layers or 1
        size, crc = self._array.layer_offset(1, self._rows), 0
        self._file.write_at(memoryview(self._table), count * size)
        for place in range(count):
            crc = joined_crc32(crc, self._layers[place][0], size)
        crc = zlib.crc32(self._table, crc)
        chunks = tuple(self._layers[place][1] for place in range(count))
        self.digest = FileDigest(self._array.shard_bytes(self._rows), f"{crc:08x}", chunks)


@contextlib.contextmanager
def shard_file(store: Path, key: str, array: RowArray, rows: int) -> Iterator[ShardFile]:
    """A file for a shard with this number of rows, of which all layers are written within the block.

    It gets its path, ``store / key``, at the end of the block, unless there was an error; see `files.atomic_file`.
    """
    with atomic_file(store / key) as new:
        file = ShardFile(key, new, array, rows)
        yield file
        file.end()


def joined_crc32(first: int, second: int, size: int) -> int:
    """CRC-32 of two pieces of bytes together, from the CRC-32 of each and the size of the second.

    This is zlib's crc32_combine, which Python's zlib lacks.
    """
    return _product(_power(8 * size), first) ^ second


def _product(a: int, b: int) -> int:
    """Product of two polynomials over GF(2), modulo that of CRC-32."""
    product = 0
    for exponent in range(32):
        if a & (_ONE >> exponent):
            product ^= b
        b = (b >> 1) ^ (_POLYNOMIAL if b & 1 else 0)  # times x
    return product


@functools.cache
def _power(exponent: int) -> int:
    """X to a power, modulo the polynomial of CRC-32."""
    power, square = _ONE, _ONE >> 1
    while exponent:
        if exponent & 1:
            power = _product(power, square)
        square = _product(square, square)
        exponent >>= 1
    return power
