"""The scripts of the viewer's images, read by the definition of their format and not by the project's code."""

from __future__ import annotations

import json
import zlib
from typing import Any


def unpacked(packed: list) -> bytes:
    """The bytes in a text of 15 or 16 bits a character, by the definition."""
    length, text = packed
    units = [ord(one) - (0x100 if one < "\ud800" else 0x900) for one in text]
    bits = "".join(f"{unit % 2**15:015b}" for unit in units)
    bits += "".join(str(unit // 2**15) for unit in units if unit % 2**15 < 0xFEFF - 0x900 - 2**15)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, 8 * length, 8))


def parts_of_image(script: str) -> tuple[int, dict[str, Any], bytes, bytes]:
    """The number of the file with its words, its data, the bytes that its arrays are in, and its picture."""
    call = script.removeprefix("lenscore.image(").removesuffix(");\n")
    _, file, (width, start, count), arrays, picture = json.loads(f"[{call}]")
    assert width == 1
    numbers = zlib.decompress(unpacked(arrays))
    return file, json.loads(numbers[start : start + count]), numbers, unpacked(picture)
