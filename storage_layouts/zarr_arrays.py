"""Zarr v3 arrays as bytes: the metadata of an array, and one shard of rows to and from bytes.

The format is small (https://zarr-specs.readthedocs.io, sharding_indexed): a shard file consists of its inner chunks,
each followed by its CRC-32C, then a table of (offset, length), then the CRC-32C of the table. zarr-python is not used
to write it: the bytes must not depend on its version and must be flushed to the disk before they get their name.
Rows can also be read into place at memory speed. zarr-python reads the files and writes the same bytes
(tests/storage_layouts/test_zarr_arrays.py).
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import weakref
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c

from storage_layouts.zarr_metadata import metadata_bytes

INNER_ROWS = 1024
CHECKSUM_BYTES = 4
READ_BYTES, READ_CHUNKS = 2**22, 256  # limits of one read: it is checked while still in the CPU cache; IOV_MAX is 1024
_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14, missing in Python's mmap module
NO_CHUNK = np.iinfo(np.uint64).max  # offset and length of an inner chunk that was never written


@dataclass(frozen=True)
class RowArray:
    """A Zarr array of rows, cut into shard files of ``shard_rows`` rows.

    Attributes:
        dtype: "uint8", "float16" or "float32".
        rows: length of the first axis.
        width: length of the second axis; None for an array of one axis.
        shard_rows: rows per file; at most 1024, or a multiple of it.
        fill: value of rows that were never written: a number or "NaN".
        axis: name of the second axis. Other programs expect axes of the same name in a group to have the same length.

    """

    dtype: str
    rows: int
    width: int | None
    shard_rows: int
    fill: int | str
    axis: str = "dim"

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
        return f"c.{shard}" if self.width is None else f"c.{shard}.0"

    def metadata(self) -> bytes:
        """Text of the array's zarr.json."""
        little = {"name": "bytes"} if self.dtype == "uint8" else _LITTLE
        sharding = {
            "chunk_shape": [self.inner_rows, *self.tail],
            "codecs": [little, _CRC],
            "index_codecs": [_LITTLE, _CRC],
            "index_location": "end",
        }
        return metadata_bytes(
            {
                "node_type": "array",
                "shape": [self.rows, *self.tail],
                "data_type": self.dtype,
                "chunk_grid": _named("regular", chunk_shape=[self.shard_rows, *self.tail]),
                "chunk_key_encoding": _named("default", separator="."),
                "fill_value": self.fill,
                "codecs": [_named("sharding_indexed", **sharding)],
                "dimension_names": ["row", self.axis][: 1 + len(self.tail)],
                "attributes": {},
            }
        )

    def encode_shard(self, rows: np.ndarray) -> bytes:
        """Returns the bytes of a shard file of at most ``shard_rows`` rows. ValueError for another dtype or shape."""
        if rows.dtype != np.dtype(self.dtype) or rows.shape[1:] != self.tail:
            expected = f"{self.dtype} [n{''.join(f', {n}' for n in self.tail)}]"
            raise ValueError(f"found rows {rows.dtype} {list(rows.shape)}, expected {expected}")
        if not 0 < len(rows) <= self.shard_rows:
            raise ValueError(f"{len(rows)} rows in a shard of {self.shard_rows}")
        inner, parts = self.inner_rows, []
        rows = rows.astype(self.little_endian, copy=False)
        for first in range(0, len(rows), inner):
            chunk = rows[first : first + inner]
            if len(chunk) < inner:
                padding = np.full((inner - len(chunk), *self.tail), self.fill, dtype=rows.dtype)
                chunk = np.concatenate([chunk, padding])
            parts.append(_with_checksum(chunk.tobytes()))
        return b"".join([*parts, _with_checksum(self._index(len(parts)).tobytes())])

    def shard_bytes(self, rows: int) -> int:
        """Size of a shard file with this number of rows; nothing is compressed."""
        return self._data_bytes(rows) + self._index(0).nbytes + CHECKSUM_BYTES

    def chunks_digest(self, data: bytes | memoryview) -> str:
        """`FileDigest.chunks` of the bytes of a shard file."""
        stride, size = self._stride, len(data) - self._index(0).nbytes - CHECKSUM_BYTES
        checksums = b"".join(data[end - CHECKSUM_BYTES : end] for end in range(stride, size + 1, stride))
        return f"{zlib.crc32(data[size:], zlib.crc32(checksums)):08x}"

    def load_shard(self, path: Path, out: np.ndarray) -> str:
        """Read all ``len(out)`` rows of a shard file, and compare every inner chunk with its CRC-32C.

        Args:
            path: the file.
            out: array [n, ...] of this dtype, contiguous; receives the rows.

        Returns:
            `FileDigest.chunks` of the file. The rows are valid only if it equals the recorded one.

        Raises:
            ValueError: the size, a checksum or the table is not that of such a shard.
            OSError: the file cannot be read.

        """
        if out.dtype != self.little_endian or out.shape[1:] != self.tail or not out.flags.c_contiguous:
            raise ValueError(f"cannot read {self.dtype} {list(self.tail)} into {out.dtype} {list(out.shape)}")
        inner, end, stride = self.inner_rows, self._data_bytes(len(out)), self._stride
        chunks = [out[first : first + inner] for first in range(0, len(out), inner)]
        beyond = len(chunks) * inner - len(out)
        if beyond:
            chunks[-1] = np.empty((inner, *self.tail), self.little_endian)
        checksums = np.empty((len(chunks), CHECKSUM_BYTES), np.uint8)
        data = [chunk.reshape(-1).view(np.uint8) for chunk in chunks]
        at_a_time = max(1, min(READ_BYTES // stride, READ_CHUNKS))
        with path.open("rb", buffering=0) as file:
            self._check_length(file.fileno(), len(out))
            for first in range(0, len(chunks), at_a_time):
                numbers = range(first, min(first + at_a_time, len(chunks)))
                _read_pieces(file.fileno(), [p for i in numbers for p in (data[i], checksums[i])], first * stride)
                for number in numbers:
                    _compare(data[number], checksums[number].tobytes(), number)
            table = os.pread(file.fileno(), self.shard_bytes(len(out)) - end, end)
        if beyond:
            out[len(out) + beyond - inner :] = chunks[-1][:-beyond]
        self._check_table(table, len(out))
        return f"{zlib.crc32(checksums.tobytes() + table):08x}"

    def map_shard(self, path: Path, rows: int) -> tuple[np.ndarray, str]:
        """Map the rows of a shard file into memory, without a copy; checked as in `load_shard`.

        Returns:
            Array [chunks, inner_rows, ...], and `FileDigest.chunks` of the file. The last chunk has padding after the
            last row. Writing to the array does not change the file.

        """
        with path.open("rb", buffering=0) as file:
            self._check_length(file.fileno(), rows)
            mapped = memoryview(_mapped(file.fileno(), self.shard_bytes(rows)))
        chunks, stride = -(-rows // self.inner_rows), self._stride
        data = np.ndarray((chunks, stride - CHECKSUM_BYTES), np.uint8, mapped, strides=(stride, 1))
        for number in range(chunks):
            end = (number + 1) * stride
            _compare(data[number], bytes(mapped[end - CHECKSUM_BYTES : end]), number)
        self._check_table(bytes(mapped[chunks * stride :]), rows)
        values = data.view(self.little_endian).reshape(chunks, self.inner_rows, *self.tail)
        return values, self.chunks_digest(mapped)

    def _check_length(self, descriptor: int, rows: int) -> None:
        found, size = os.fstat(descriptor).st_size, self.shard_bytes(rows)
        if found != size:
            raise ValueError(f"{found} bytes, expected {size} for {rows} rows")

    def _check_table(self, end: bytes, rows: int) -> None:
        if end != _with_checksum(self._index(-(-rows // self.inner_rows)).tobytes()):
            raise ValueError("the table of inner chunks is not that of a whole shard")

    def _data_bytes(self, rows: int) -> int:
        """Offset of the table in a shard file with this number of rows."""
        return -(-rows // self.inner_rows) * self._stride

    @property
    def little_endian(self) -> np.dtype:
        """The numpy dtype of the rows in a file."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def _stride(self) -> int:
        """Bytes from one inner chunk to the next."""
        return self.inner_rows * math.prod(self.tail) * self.little_endian.itemsize + CHECKSUM_BYTES

    def _index(self, chunks: int) -> np.ndarray:
        """The table of a shard with ``chunks`` inner chunks: (offset, length), uint64."""
        index = np.full((self.shard_rows // self.inner_rows, 2), NO_CHUNK, dtype="<u8")
        index[:chunks, 0] = np.arange(chunks) * self._stride
        index[:chunks, 1] = self._stride
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


def _mapped(descriptor: int, size: int) -> ctypes.Array[ctypes.c_ubyte]:
    """A private memory map of a file: writing to it does not change the file.

    Python's mmap keeps a file descriptor open for each map. A store has thousands of files, and a process can usually
    open 1,024. This map needs no descriptor, and is unmapped when nothing uses it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, descriptor, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    libc.madvise(address, size, _POPULATE_READ)  # an older kernel refuses it, and loads page by page
    memory = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(memory, libc.munmap, address, size).atexit = False  # other threads may still read at exit
    return memory


def _compare(data: np.ndarray, checksum: bytes, number: int) -> None:
    if crc32c(data) != int.from_bytes(checksum, "little"):
        raise ValueError(f"inner chunk {number} does not match its CRC-32C")


def _named(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


_LITTLE = _named("bytes", endian="little")
_CRC = {"name": "crc32c"}


def _with_checksum(data: bytes) -> bytes:
    return data + crc32c(data).to_bytes(CHECKSUM_BYTES, "little")
