"""Zarr v3 arrays as bytes: the metadata of groups and arrays, and one shard of rows to and from bytes.

The format is small (https://zarr-specs.readthedocs.io, sharding_indexed): a shard file is its inner chunks
one after the other, each followed by its crc32c, then a table of (offset, length), then that table's crc32c.
It is written here rather than by zarr-python because its bytes must not depend on a version, must be flushed
to the disk before they get their name, and because rows can then be read straight into place at memory
speed. zarr-python reads the result, and writes the same bytes (tests/storage_layouts/test_zarr_arrays.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np

INNER_ROWS = 1024
CHECKSUM_BYTES = 4
NO_CHUNK = np.iinfo(np.uint64).max  # offset and length of an inner chunk that was never written


@dataclass(frozen=True)
class RowArray:
    """A Zarr array of rows, cut into shard files of ``shard_rows`` rows.

    Attributes:
        dtype: "uint8", "float16" or "float32".
        rows: length of the first axis.
        width: length of the second axis; None for an array of one axis.
        shard_rows: rows per file; at most 1024, or a multiple of it.
        fill: of rows that were never written: a number or "NaN".

    """

    dtype: str
    rows: int
    width: int | None
    shard_rows: int
    fill: int | str

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
                "dimension_names": ["row", "dim"][: 1 + len(self.tail)],
                "attributes": {},
            }
        )

    def encode_shard(self, rows: np.ndarray) -> bytes:
        """Bytes of a shard file of at most ``shard_rows`` rows; ValueError for another dtype or shape."""
        if rows.dtype != np.dtype(self.dtype) or rows.shape[1:] != self.tail:
            expected = f"{self.dtype} [n{''.join(f', {n}' for n in self.tail)}]"
            raise ValueError(f"found rows {rows.dtype} {list(rows.shape)}, expected {expected}")
        if not 0 < len(rows) <= self.shard_rows:
            raise ValueError(f"{len(rows)} rows in a shard of {self.shard_rows}")
        inner = self.inner_rows
        rows = rows.astype(rows.dtype.newbyteorder("<"), copy=False)
        parts, offset = [], 0
        index = np.full((self.shard_rows // inner, 2), NO_CHUNK, dtype="<u8")
        for number, first in enumerate(range(0, len(rows), inner)):
            chunk = rows[first : first + inner]
            if len(chunk) < inner:
                padding = np.full((inner - len(chunk), *self.tail), self.fill, dtype=rows.dtype)
                chunk = np.concatenate([chunk, padding])
            parts.append(_with_checksum(chunk.tobytes()))
            index[number] = offset, len(parts[-1])
            offset += len(parts[-1])
        return b"".join([*parts, _with_checksum(index.tobytes())])

    def decode_shard(self, data: bytes, rows: int) -> np.ndarray:
        """The first ``rows`` rows of a shard file. ValueError if it does not hold exactly these."""
        inner, chunks = self.inner_rows, -(-rows // self.inner_rows)
        chunk_bytes = inner * int(np.prod(self.tail)) * np.dtype(self.dtype).itemsize
        index_bytes = self.shard_rows // inner * 16 + CHECKSUM_BYTES
        expected = chunks * (chunk_bytes + CHECKSUM_BYTES) + index_bytes
        if len(data) != expected:
            raise ValueError(f"{len(data)} bytes, expected {expected} for {rows} rows")
        index = np.frombuffer(data, "<u8", (index_bytes - CHECKSUM_BYTES) // 8, expected - index_bytes)
        starts = np.arange(chunks, dtype=np.uint64) * np.uint64(chunk_bytes + CHECKSUM_BYTES)
        if not np.array_equal(index.reshape(-1, 2)[:chunks, 0], starts):
            raise ValueError("inner chunks missing or in another order")
        body = np.frombuffer(data, np.uint8, expected - index_bytes).reshape(chunks, -1)[:, :chunk_bytes]
        dtype = np.dtype(self.dtype).newbyteorder("<")
        return np.ascontiguousarray(body).view(dtype).reshape(-1, *self.tail)[:rows]


def _named(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


_LITTLE = _named("bytes", endian="little")
_CRC = {"name": "crc32c"}


def _with_checksum(data: bytes) -> bytes:
    return data + google_crc32c.value(data).to_bytes(CHECKSUM_BYTES, "little")


def metadata_bytes(content: dict[str, Any]) -> bytes:
    """Text of a zarr.json."""
    return json.dumps({"zarr_format": 3, **content}, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def group_metadata(attributes: dict[str, Any]) -> bytes:
    """Text of a group's zarr.json."""
    return metadata_bytes({"node_type": "group", "attributes": attributes})
