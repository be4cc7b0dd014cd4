"""Arrays and texts in a script: compressed, and written as characters, because pages from the disk load only scripts.

Packed bytes are the literal [number of bytes, "characters"]: zlib, and nearly 16 bits a character from U+0100 on. None
of these can end a text or a script. In a file (`script_file`) a character takes two bytes. templates/data/packed.js
reads them.
"""

from __future__ import annotations

import codecs
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

_LEVEL = 4
"""Of zlib: higher ones save 2 % of the bytes in twice the time."""
_FIRST = 0x100
_SURROGATES = 0xD800, 0x800  # the first, and how many: they are no characters
_WITH_16_BITS = 0xFEFF - _SURROGATES[1] - _FIRST - 2**15  # the byte order mark and what follows it are not used


class PackedArrays:
    """Arrays that a script holds together as packed bytes, and names one by one by what `add` returns."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0

    def add(self, values: npt.NDArray[Any], kind: str = "") -> tuple[int, int, int]:
        """Add numbers of any shape; returns (bytes a number, place of the first byte, count).

        Without a ``kind``, such as "<f4", they are integers >= -1 of the narrowest unsigned type; -1 becomes its
        largest value. The first bytes of all numbers stand together, and so on: bytes of a kind compress better.
        """
        if not kind:
            largest = int(values.max()) if values.size else 0
            kind = next(f"<u{width}" for width in (1, 2, 4) if largest < 2 ** (8 * width) - 1)
        start, numbers = self._length, np.ascontiguousarray(values.astype(kind)).ravel()
        width, count = numbers.itemsize, numbers.size
        parts = _one_or_two_bytes(numbers) if width == 2 else list(numbers.view(np.uint8).reshape(count, width).T)
        self._parts += [part.tobytes() for part in parts]
        self._length += sum(part.size for part in parts)
        return width, start, count

    def packed(self) -> str:
        """Returns everything that was added; each part has its own codes, because its bytes are of another kind."""
        stream = zlib.compressobj(_LEVEL, strategy=zlib.Z_FILTERED)
        parts = [stream.compress(part) + stream.flush(zlib.Z_BLOCK) for part in self._parts]
        return characters(b"".join(parts) + stream.flush())


def _one_or_two_bytes(numbers: npt.NDArray[np.uint16]) -> list[npt.NDArray[np.uint8]]:
    """Returns a limit, below which a number is one byte; the first bytes of all numbers; the second ones of the others.

    The limit is as high as the largest number allows.
    """
    largest = int(numbers.max(initial=0))
    limit = min(255, (65535 - largest) // 255)
    has_two = numbers >= limit
    high, low = np.divmod(numbers - np.uint16(limit), 256)
    first = np.where(has_two, limit + high, numbers)
    return [np.array([limit], np.uint8), first.astype(np.uint8), low[has_two].astype(np.uint8)]


def packed(data: bytes) -> str:
    """Returns bytes compressed."""
    return characters(zlib.compress(data, _LEVEL))


def characters(data: bytes) -> str:
    """Returns bytes that are compressed already as packed bytes.

    Each character has 15 bits of the data, and most have one more: together these are the data's end.
    """
    whole = np.frombuffer(data + bytes(-len(data) % 15), np.uint8).reshape(-1, 15)
    padded = np.zeros((len(whole), 16), np.uint8)
    padded[:, :15] = whole
    high, low = padded.view(">u8").T.astype(np.uint64)
    units = np.empty((len(whole), 8), np.uint16)  # 15 bytes are 8 characters, of which the fifth has 4 bits of `high`
    for place in range(4):
        units[:, place] = high >> np.uint64(49 - 15 * place) & np.uint64(0x7FFF)
    units[:, 4] = (high << np.uint64(11) | low >> np.uint64(53)) & np.uint64(0x7FFF)
    for place in range(3):
        units[:, 5 + place] = low >> np.uint64(38 - 15 * place) & np.uint64(0x7FFF)
    has_more = units < _WITH_16_BITS
    room = 120 * np.arange(1, len(units) + 1) + has_more.sum(axis=1).cumsum()
    used = int(np.searchsorted(room, 8 * len(data))) + 1  # so many rows of 8 hold all bits
    end = np.unpackbits(np.frombuffer(data[15 * used :], np.uint8))
    codes = units[:used].ravel()
    codes[np.flatnonzero(has_more[:used])[: len(end)]] += end.astype(np.uint16) << np.uint16(15)
    codes += _FIRST
    codes[codes >= _SURROGATES[0]] += _SURROGATES[1]
    return f'[{len(data)},"{codes.astype("<u2").tobytes().decode("utf-16-le")}"]'


def script_file(script: str) -> bytes:
    """Returns the file of a script with packed bytes; its first bytes say the encoding, whatever a web server says."""
    return codecs.BOM_UTF16_LE + script.encode("utf-16-le")
