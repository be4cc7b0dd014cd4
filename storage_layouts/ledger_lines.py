"""The lines of a ledger: one JSON object each, with the CRC-32C of the bytes before it as its last field.

    {"at": 1764374400.1, "event": "sent", ..., "crc32c": "0f1e2d3c"}

So any changed byte is detected: if the first line of a file has the field ``format``, every line has a checksum; a file
of an older version has neither. A line may be incomplete in two ways:

- It is the last one: its writer was killed while writing, or is writing now. No writer has acted upon it.
- The next line follows in the same line: the disk was full within a write (only in files of older versions; now such a
  line is truncated). This is certain if a complete line follows and the part before it is not a complete object, also
  without its last byte. If only the line end between two lines was changed, the first one is complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from crc32c import crc32c

from storage_layouts.errors import CorruptError
from storage_layouts.files import canonical_json

SUFFIX = ".jsonl"
FORMAT = 2
"""Format of a file whose lines have checksums."""
REMEDY = "restore the file from a copy, or delete this line alone: every other answer stays"
_SEALED = re.compile(rb'(\{.*), "crc32c": "([0-9a-f]{8})"\}\n')
_STARTS = (b'{"at": ', b'{"answer": ')  # of a line; within a JSON string the quotation marks would be escaped


class Line(NamedTuple):
    """A complete line: its event, and the offset and length of its bytes in the file."""

    event: dict[str, Any]
    at: int
    length: int


class Reader:
    """Reads one file incrementally.

    Attributes:
        offset: end of the last complete line.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self._number = 0
        self._sealed = False  # once the first line is known

    def read(self) -> Iterator[Line]:
        """The new complete lines. CorruptError, naming the line, if a byte of one was changed."""
        # Opened each time, because a network file system then requests the newest bytes from the server.
        with self.path.open("rb") as source:
            source.seek(self.offset)
            data = source.read()
        for line in re.findall(rb"[^\n]*\n|[^\n]+", data):
            if not line.endswith(b"\n"):
                if self._object(line[:-1] + b"\n") is not None:
                    raise self._damaged(line)  # it is complete but for the line end
                return
            event, torn = self._object(line), 0
            if event is None:
                torn = self._torn(line)
                event = self._object(line[torn:])
            if event is None:
                raise self._damaged(line)
            if self._number == 0:
                self._sealed = "format" in event
            yield Line(event, self.offset + torn, len(line) - torn)
            self.offset += len(line)
            self._number += 1

    def _object(self, line: bytes) -> dict[str, Any] | None:
        """The event of a complete line with a correct checksum; None for any other line."""
        found = _SEALED.fullmatch(line)
        if found is None and self._sealed:
            return None
        if found is not None and int(found[2], 16) != crc32c(found[1]):
            return None
        event = _json(line)
        if not isinstance(event, dict) or "event" not in event or (found is None and "format" in event):
            return None
        return event

    def _torn(self, line: bytes) -> int:
        """Length of an incomplete line at the beginning of a line, if it certainly is one, else 0."""
        at = max(line.rfind(start) for start in _STARTS)
        return 0 if at <= 0 or _json(line[:at]) or _json(line[: at - 1]) else at

    def _damaged(self, line: bytes) -> CorruptError:
        found = f"changed bytes in line {self._number + 1} ({line[:40]!r}...)"
        return CorruptError(self.path, found, "a ledger's line as it was written", REMEDY)


def sealed(event: dict[str, Any]) -> bytes:
    """The line of an event, with its checksum. ValueError or TypeError for values that JSON does not have."""
    content = canonical_json(event)[:-1]
    return content + b', "crc32c": "%08x"}\n' % crc32c(content)


def read_answers(path: Path) -> Iterator[dict[str, Any]]:
    """The answers in a ledger file, or in all files of a ledger folder, as passed to `Ledger.answered`."""
    for file in sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]:
        yield from (line.event["answer"] for line in Reader(file).read() if line.event["event"] == "answered")


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
