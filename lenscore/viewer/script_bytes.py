"""Arrays and texts in a script: compressed, and written as characters, because pages from the disk load only scripts.

Packed bytes are the literal [number of bytes, "characters"]: zlib, 15 bits a character from U+3000 on. None of these
can end a text or a script. In a file (`script_file`) a character takes two bytes. templates/data/packed.js reads them.
"""

from __future__ import annotations

import codecs
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

_LEVEL = 4
"""Of zlib: higher ones save 2 % of the bytes in twice the time."""
_FIRST = 0x3000


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
        start, numbers = self._length, np.ascontiguousarray(values.astype(kind))
        self._parts.append(numbers.reshape(-1, 1).view(np.uint8).T.tobytes())
        self._length += numbers.nbytes
        return numbers.itemsize, start, numbers.size

    def packed(self) -> str:
        """Returns everything that was added."""
        return packed(b"".join(self._parts))


def packed(data: bytes) -> str:
    """Returns bytes compressed."""
    return characters(zlib.compress(data, _LEVEL))


def characters(data: bytes) -> str:
    """Returns bytes that are compressed already as packed bytes."""
    whole = np.frombuffer(data + bytes(-len(data) % 15), np.uint8).reshape(-1, 15)
    padded = np.zeros((len(whole), 16), np.uint8)
    padded[:, :15] = whole
    high, low = padded.view(">u8").T.astype(np.uint64)
    units = np.empty((len(whole), 8), "<u2")  # 15 bytes are 8 characters, of which the fifth has 4 bits of `high`
    for place in range(4):
        units[:, place] = high >> np.uint64(49 - 15 * place) & np.uint64(0x7FFF)
    units[:, 4] = (high << np.uint64(11) | low >> np.uint64(53)) & np.uint64(0x7FFF)
    for place in range(3):
        units[:, 5 + place] = low >> np.uint64(38 - 15 * place) & np.uint64(0x7FFF)
    units += _FIRST
    return f'[{len(data)},"{units.tobytes().decode("utf-16-le")}"]'


def script_file(script: str) -> bytes:
    """Returns the file of a script with packed bytes; its first bytes say the encoding, whatever a web server says."""
    return codecs.BOM_UTF16_LE + script.encode("utf-16-le")
