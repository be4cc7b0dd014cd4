"""Zarr v3 arrays as bytes: the metadata of an array, and one shard of rows to and from bytes.

The format is small (https://zarr-specs.readthedocs.io, sharding_indexed): a shard file consists of its inner chunks,
each followed by its CRC-32C, then a table of (offset, length), then the CRC-32C of the table. If a file holds several
layers, the chunks of one layer follow one another. zarr-python is not used to write it: the bytes must not depend on
its version and must be flushed to the disk before they get their name. Rows can also be read into place at memory
speed. zarr-python reads the files and writes the same bytes, several layers in another order
(tests/storage_layouts/test_zarr_arrays.py).
"""

from __future__ import annotations

import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c

from storage_layouts.mapped_memory import mapped
from storage_layouts.zarr_metadata import INNER_ROWS, metadata_bytes

CHECKSUM_BYTES = 4
READ_BYTES, READ_CHUNKS = 2**22, 256  # limits of one read: it is checked while still in the CPU cache; IOV_MAX is 1024
NO_CHUNK = np.iinfo(np.uint64).max  # offset and length of an inner chunk that was never written


@dataclass(frozen=True)
class RowArray:
    """A Zarr array of rows, of one or several layers, cut into shard files of ``shard_rows`` rows of all its layers.

    Attributes:
        dtype: "uint8", "float16" or "float32".
        rows: number of rows of a layer.
        width: length of a row; None for one number.
        shard_rows: rows per file; at most 1024, or a multiple of it.
        fill: value of rows that were never written: a number or "NaN".
        axis: name of the last axis. Other programs expect axes of the same name in a group to have the same length.
        layers: length of the first axis, over layers; None for an array without it, of one layer.

    """

    dtype: str
    rows: int
    width: int | None
    shard_rows: int
    fill: int | str
    axis: str = "dim"
    layers: int | None = None

    def __post_init__(self) -> None:
        if self.shard_rows < 1 or self.shard_rows % self.inner_rows:
            raise ValueError(f"{self.shard_rows} rows per shard: use at most {INNER_ROWS}, or a multiple of it")

    @property
    def inner_rows(self) -> int:
        """Rows per inner chunk."""
        return min(INNER_ROWS, self.shard_rows)

    @property
    def tail(self) -> tuple[int, ...]:
        """Shape of one row."""
        return () if self.width is None else (self.width,)

    def key(self, shard: int) -> str:
        """File name of a shard."""
        return "c." + ".".join(map(str, [*(0 for _ in self._lead), shard, *(0 for _ in self.tail)]))

    def metadata(self) -> bytes:
        """Text of the array's zarr.json."""
        little = {"name": "bytes"} if self.dtype == "uint8" else _LITTLE
        sharding = {
            "chunk_shape": [*(1 for _ in self._lead), self.inner_rows, *self.tail],
            "codecs": [little, _CRC],
            "index_codecs": [_LITTLE, _CRC],
            "index_location": "end",
        }
        return metadata_bytes(
            {
                "node_type": "array",
                "shape": [*self._lead, self.rows, *self.tail],
                "data_type": self.dtype,
                "chunk_grid": _named("regular", chunk_shape=[*self._lead, self.shard_rows, *self.tail]),
                "chunk_key_encoding": _named("default", separator="."),
                "fill_value": self.fill,
                "codecs": [_named("sharding_indexed", **sharding)],
                "dimension_names": [*("layer" for _ in self._lead), "row", *(self.axis for _ in self.tail)],
                "attributes": {},
            }
        )

    def encode_layer(self, rows: np.ndarray) -> np.ndarray:
        """The bytes of the inner chunks of one layer of a shard, with their checksums, as uint8 [chunks, stride].

        ValueError for another dtype or shape, and for no rows or more than ``shard_rows``.
        """
        if rows.dtype != np.dtype(self.dtype) or rows.shape[1:] != self.tail:
            expected = f"{self.dtype} [n{''.join(f', {n}' for n in self.tail)}]"
            raise ValueError(f"found rows {rows.dtype} {list(rows.shape)}, expected {expected}")
        if not 0 < len(rows) <= self.shard_rows:
            raise ValueError(f"{len(rows)} rows in a shard of {self.shard_rows}")
        inner = self.inner_rows
        rows = rows.astype(self.little_endian, copy=False)
        found = np.empty((self._chunks(len(rows)), self._stride), np.uint8)
        for number, line in enumerate(found):
            chunk = rows[number * inner : (number + 1) * inner]
            if len(chunk) < inner:
                padding = np.full((inner - len(chunk), *self.tail), self.fill, dtype=rows.dtype)
                chunk = np.concatenate([chunk, padding])
            data = line[:-CHECKSUM_BYTES]
            data[:] = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
            line[-CHECKSUM_BYTES:] = np.frombuffer(_checksum(data), np.uint8)
        return found

    def layer_offset(self, layer: int, rows: int) -> int:
        """Where the chunks of a layer, the first of which is 0, begin in a shard file with this number of rows."""
        return layer * self._chunks(rows) * self._stride

    def table(self, rows: int) -> bytes:
        """The end of a shard file with this number of rows: the table of its inner chunks, and the checksum of it."""
        data = self._index(self._chunks(rows)).tobytes()
        return data + _checksum(data)

    def shard_bytes(self, rows: int) -> int:
        """Size of a shard file with this number of rows; nothing is compressed."""
        return self.layer_offset(self.layers or 1, rows) + len(self.table(rows))

    @staticmethod
    def layer_digest(chunks: np.ndarray, table: bytes) -> str:
        """Digest of a layer in `FileDigest.chunks`, from its chunks (as `encode_layer` returns them) and the table."""
        return f"{zlib.crc32(table, zlib.crc32(chunks[:, -CHECKSUM_BYTES:].tobytes())):08x}"

    def load_layer(self, path: Path, out: np.ndarray, layer: int = 0) -> str:
        """Read all ``len(out)`` rows of a layer of a shard file, and compare every inner chunk with its CRC-32C.

        Args:
            path: the file.
            out: array [n, ...] of this dtype, contiguous; receives the rows.
            layer: place of the layer in the file.

        Returns:
            `layer_digest` of what the file holds. The rows are valid only if it equals the recorded one.

        Raises:
            ValueError: the size, a checksum or the table is not that of such a shard.
            OSError: the file cannot be read.

        """
        if out.dtype != self.little_endian or out.shape[1:] != self.tail or not out.flags.c_contiguous:
            raise ValueError(f"cannot read {self.dtype} {list(self.tail)} into {out.dtype} {list(out.shape)}")
        inner, stride, begins = self.inner_rows, self._stride, self.layer_offset(layer, len(out))
        chunks = [out[first : first + inner] for first in range(0, len(out), inner)]
        beyond = len(chunks) * inner - len(out)
        if beyond:
            chunks[-1] = np.empty((inner, *self.tail), self.little_endian)
        checksums = np.empty((len(chunks), CHECKSUM_BYTES), np.uint8)
        data = [chunk.reshape(-1).view(np.uint8) for chunk in chunks]
        at_a_time = max(1, min(READ_BYTES // stride, READ_CHUNKS))
        with path.open("rb", buffering=0) as file:
            table = self._read_table(file.fileno(), len(out))
            for first in range(0, len(chunks), at_a_time):
                numbers = range(first, min(first + at_a_time, len(chunks)))
                pieces = [p for i in numbers for p in (data[i], checksums[i])]
                _read_pieces(file.fileno(), pieces, begins + first * stride)
                for number in numbers:
                    _compare(data[number], checksums[number].tobytes(), number)
        if beyond:
            out[len(out) + beyond - inner :] = chunks[-1][:-beyond]
        return self.layer_digest(checksums, table)

    def map_layer(self, path: Path, rows: int, layer: int = 0) -> tuple[np.ndarray, str]:
        """Map the rows of a layer of a shard file into memory, without a copy; checked as in `load_layer`.

        Returns:
            Array [chunks, inner_rows, ...], and `layer_digest` of what the file holds. The last chunk has padding after
            the last row. Writing to the array does not change the file.

        """
        chunks, stride = self._chunks(rows), self._stride
        with path.open("rb", buffering=0) as file:
            table = self._read_table(file.fileno(), rows)
            lines = mapped(file.fileno(), self.layer_offset(layer, rows), chunks * stride)
        lines = lines.reshape(chunks, stride)
        data = lines[:, :-CHECKSUM_BYTES]
        for number, line in enumerate(lines):
            _compare(data[number], line[-CHECKSUM_BYTES:].tobytes(), number)
        values = data.view(self.little_endian).reshape(chunks, self.inner_rows, *self.tail)
        return values, self.layer_digest(lines, table)

    def _read_table(self, descriptor: int, rows: int) -> bytes:
        """The table of an open shard file. ValueError if it, or the size of the file, is not that of a whole shard."""
        found, table, begins = os.fstat(descriptor).st_size, self.table(rows), self.layer_offset(self.layers or 1, rows)
        if found != begins + len(table):
            raise ValueError(f"{found} bytes, expected {begins + len(table)} for {rows} rows")
        if os.pread(descriptor, len(table), begins) != table:
            raise ValueError("the table of inner chunks is not that of a whole shard")
        return table

    @property
    def _lead(self) -> tuple[int, ...]:
        """Length of the axis over layers, if there is one."""
        return () if self.layers is None else (self.layers,)

    def _chunks(self, rows: int) -> int:
        """Number of inner chunks of each layer in a shard file with this number of rows."""
        return -(-rows // self.inner_rows)

    @property
    def little_endian(self) -> np.dtype:
        """The numpy dtype of the rows in a file."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def _stride(self) -> int:
        """Bytes from one inner chunk to the next."""
        return self.inner_rows * math.prod(self.tail) * self.little_endian.itemsize + CHECKSUM_BYTES

    def _index(self, chunks: int) -> np.ndarray:
        """The table of a shard with ``chunks`` inner chunks of each layer: (offset, length), uint64."""
        layers = self.layers or 1
        index = np.full((layers, self.shard_rows // self.inner_rows, 2), NO_CHUNK, dtype="<u8")
        index[:, :chunks, 0] = np.arange(layers * chunks).reshape(layers, chunks) * self._stride
        index[:, :chunks, 1] = self._stride
        return index


def _read_pieces(descriptor: int, pieces: list[np.ndarray], offset: int) -> None:
    """Read consecutive bytes of a file, from an offset on, into several byte arrays; usually in one system call."""
    views = [piece.data for piece in pieces]
    while views:
        count = os.preadv(descriptor, views, offset)
        if not count:
            raise ValueError("the file became shorter while it was read")
        offset += count
        while views and count >= len(views[0]):
            count -= len(views.pop(0))
        if views:
            views[0] = views[0][count:]


def _compare(data: np.ndarray, checksum: bytes, number: int) -> None:
    if crc32c(data) != int.from_bytes(checksum, "little"):
        raise ValueError(f"inner chunk {number} does not match its CRC-32C")


def _named(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


_LITTLE = _named("bytes", endian="little")
_CRC = {"name": "crc32c"}


def _checksum(data: bytes | np.ndarray) -> bytes:
    return crc32c(data).to_bytes(CHECKSUM_BYTES, "little")
