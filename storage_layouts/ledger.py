"""The ledger: every request to a paid judge, written down before it is sent, and every reply, kept before it is read.

    ledger/<run id>-<writer>.jsonl    one writer a file, one JSON object a line, each line fsynced

A file begins with who writes it. Then, per call (one request sent once):

    sent       key, what it may cost at most, and when it is certainly over; before a byte leaves
    received   status and text of the reply as they came; before anything reads them
    answered   what the reply says and what it cost; a key that has one is never sent again
    failed     the reply is no answer, and cost what it says; the key may be sent again
    released   the service refused it, or it was never sent: costs nothing
    lost       no reply came, or not all of it: whether it was paid is unknown, so the worst case counts as spent

A call with a reply, but none of the ends below it, is read when somebody asks for its key again; it is not sent again.
Money is in nanodollars (1e-9 dollars), so that sums are exact. The lines are those of `storage_layouts.ledger_lines`.
In files of older versions the reply stands in the line "answered".
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from storage_layouts.appending import LineFile, remove_rooms
from storage_layouts.errors import CorruptError
from storage_layouts.ledger_lines import FORMAT, REMEDY, SUFFIX, Line, Reader, sealed
from storage_layouts.processes import is_gone, this_process, unique_name

CLOCKS_DIFFER_SECONDS = 60.0
"""How far the clocks of two machines may be apart. If they are further apart, a call under way on one of them may read
"unknown" on the other; it is sent a second time only where unknown calls are asked to be sent again."""
ROOM_BYTES = 1 << 20
"""Room that is kept on the disk for the replies to the calls under way."""

State = Literal["free", "under way", "kept", "unknown", "answered"]


@dataclass(frozen=True)
class Call:
    """A request that was sent, or was about to be.

    Attributes:
        id: unique among all ledgers.
        key: hash of all that decides the reply.
        writer: whose file it stands in.
        reserved: what it may cost at most, nanodollars.
        until: Unix seconds after which nothing of it can be under way any more.
        batch: name of the batch that carries it, or "".

    """

    id: str
    key: str
    writer: str
    reserved: int
    until: float
    batch: str = ""


@dataclass
class _File:
    """What is known of one writer's file."""

    reader: Reader
    process: dict[str, Any] = field(default_factory=dict)
    is_final: bool = False  # its writer had ended before it was read to its end


class Ledger:
    """All files of a ledger folder together, and one's own file to write to, which is created by the first call.

    Attributes:
        folder: where the files are.
        writer: name of one's own file.

    """

    def __init__(self, folder: Path | str, run_id: str) -> None:
        self.folder = Path(folder)
        self.writer = f"{run_id}-{unique_name()}"
        self._run = run_id
        self._count = 0
        self._files: dict[str, _File] = {}
        self._open: dict[str, Call] = {}  # by call id
        self._by_key: dict[str, set[str]] = {}
        self._ended: set[str] = set()  # calls whose end was read, perhaps before their beginning
        self._answers: dict[str, tuple[str, int, int]] = {}  # key: file, first byte, length
        self._spent: dict[str, int] = {}  # by writer
        self._reserved: dict[str, int] = {}
        self._late: dict[str, int | None] = {}  # costs of ends whose beginning stands in a file read later
        self._received: dict[str, tuple[str, int, int]] = {}  # by call id, as _answers
        self._own = LineFile(self._path(self.writer), ROOM_BYTES)

    # Reading

    def refresh(self) -> None:
        """Read what the others have written since the last look. CorruptError for a line that was changed."""
        try:
            names = sorted(entry.name for entry in os.scandir(self.folder) if entry.name.endswith(SUFFIX))
        except FileNotFoundError:
            return
        for name in names:
            writer = name.removesuffix(SUFFIX)
            if writer == self.writer:
                continue
            file = self._file(writer)
            if file.is_final:
                continue
            gone = bool(file.process) and is_gone(file.process)
            if file.reader.path.stat().st_size == file.reader.offset:
                file.is_final = gone
                continue
            self._catch_up(writer)

    def _file(self, writer: str) -> _File:
        return self._files.setdefault(writer, _File(Reader(self._path(writer))))

    def _path(self, writer: str) -> Path:
        return self.folder / f"{writer}{SUFFIX}"

    def _catch_up(self, writer: str) -> None:
        """Take in the lines of a file that are new."""
        file = self._file(writer)
        for line in file.reader.read():
            try:
                self._take(writer, line)
            except (KeyError, TypeError, AttributeError) as error:
                found = f"an event that lacks {error} at byte {line.at}"
                raise CorruptError(file.reader.path, found, "a ledger's line as it was written", REMEDY) from None

    def state(self, key: str, now: float | None = None) -> State:
        """What is known of a request.

        "answered", or "kept": there is a reply that nobody has read. "free": it may be sent. "under way": elsewhere.
        "unknown": it may have been paid for nothing.
        """
        if key in self._answers:
            return "answered"
        if self.kept(key) is not None:
            return "kept"
        calls = self.open_calls(key)
        if not calls:
            return "free"
        now = time.time() if now is None else now
        return "under way" if any(self._is_under_way(call, now) for call in calls) else "unknown"

    def answer(self, key: str) -> dict[str, Any] | None:
        """The answer to a request as it was given to `answered`, with its ``cost``; None if there is none."""
        if key not in self._answers:
            return None
        found = self._event(*self._answers[key])
        return {**found["answer"], "cost": found["cost"]}

    def kept(self, key: str) -> Call | None:
        """A call to a key whose reply was received, and that nobody alive is reading; None if there is none."""
        for call in self.open_calls(key):
            mine = bool(call.batch) or call.writer == self.writer
            if call.id in self._received and (mine or not self._is_under_way(call, time.time())):
                return call
        return None

    def received_of(self, call: Call) -> tuple[int, str, bool]:
        """The reply to a call as it was given to `received`: status, text, and whether it is whole."""
        found = self._event(*self._received[call.id])
        return found["status"], found["text"], found["whole"]

    def _event(self, writer: str, at: int, length: int) -> dict[str, Any]:
        """A line's event, read again: replies are too large to be held."""
        with self._path(writer).open("rb") as source:
            source.seek(at)
            found: dict[str, Any] = json.loads(source.read(length))
        return found

    def open_calls(self, key: str | None = None) -> list[Call]:
        """The calls without an end, of all writers; of all keys, or of one."""
        if key is None:
            return list(self._open.values())
        return [self._open[call] for call in sorted(self._by_key.get(key, ()))]

    def unknown(self, run_id: str | None = None) -> list[Call]:
        """The calls without an end that are over, to keys without an answer; of all runs, or of one."""
        now = time.time()
        return [
            call
            for call in self._open.values()
            if call.key not in self._answers
            and call.id not in self._received
            and (run_id is None or call.writer.startswith(f"{run_id}-"))
            and not self._is_under_way(call, now)
        ]

    def committed(self, writer: str) -> tuple[int, int]:
        """Nanodollars that a writer's calls have cost, and those that its open calls may cost yet."""
        return self._spent.get(writer, 0), self._reserved.get(writer, 0)

    def is_gone(self, writer: str) -> bool:
        """Whether a writer has certainly ended. False if it runs elsewhere or nobody knows."""
        file = self._files.get(writer)
        return file is not None and bool(file.process) and is_gone(file.process)

    def _is_under_way(self, call: Call, now: float) -> bool:
        if call.writer == self.writer:
            return True
        if call.batch:
            return True  # a batch lives at the server, whoever sent it
        return now < call.until + CLOCKS_DIFFER_SECONDS and not self.is_gone(call.writer)

    # Writing

    @property
    def calls_sent(self) -> int:
        """How many calls stand in one's own file."""
        return self._count

    def sent(self, requests: Iterable[tuple[str, int]], until: float, batch: str = "") -> list[Call]:
        """Say that requests (key, nanodollars at most) are about to be sent; on the disk when this returns."""
        calls = []
        for key, reserved in requests:
            self._count += 1
            calls.append(Call(f"{self.writer}:{self._count}", key, self.writer, reserved, until, batch))
        self._write(
            [
                {"event": "sent", "call": call.id, "key": call.key, "reserved": call.reserved, "until": call.until}
                | ({"batch": batch} if batch else {})
                for call in calls
            ],
            keep_room=True,
        )
        return calls

    def released(self, calls: Iterable[Call]) -> None:
        """Say that calls cost nothing."""
        self._write([{"event": "released", "call": call.id} for call in calls])

    def lost(self, calls: Iterable[Call]) -> None:
        """Say that no reply came to calls: they count as spent in full, and the key may be sent again."""
        self._write([{"event": "lost", "call": call.id} for call in calls])

    def received(self, call: Call, status: int, text: str, whole: bool = True) -> None:
        """Keep the reply to a call as it came, before anything reads it; on the disk when this returns.

        Args:
            call: the call.
            status: of HTTP.
            text: the body; bytes that are no UTF-8 as lone surrogates.
            whole: whether the body came to its end.

        """
        self._write([{"event": "received", "call": call.id, "status": status, "text": text, "whole": whole}])

    def answered(self, call: Call, answer: dict[str, Any], cost: int) -> None:
        """Keep what the reply to a call says (JSON) and what it cost in nanodollars."""
        self._write([{"event": "answered", "call": call.id, "key": call.key, "cost": cost, "answer": answer}])

    def failed(self, call: Call, cost: int) -> None:
        """Say that the reply to a call is no answer, and what it cost: the key may be sent again."""
        self._write([{"event": "failed", "call": call.id, "cost": cost}])

    def close(self) -> None:
        """Close one's own file."""
        self._own.close()

    def _write(self, events: list[dict[str, Any]], keep_room: bool = False) -> None:
        if not events:
            return
        if self._own.is_new:
            remove_rooms(self.folder, lambda name: self.is_gone(name.removesuffix(SUFFIX)))
            opened = {"event": "opened", "format": FORMAT, "run": self._run, "process": this_process()}
            events = [opened, *events]
        try:
            self._own.append(b"".join(sealed({**event, "at": time.time()}) for event in events), keep_room)
        finally:
            if not self._own.is_new:
                self._catch_up(self.writer)

    # The meaning of a line

    def _take(self, writer: str, line: Line) -> None:
        event, place = line.event, (writer, line.at, line.length)
        match event["event"]:
            case "opened":
                self._files[writer].process = event["process"]
            case "sent":
                call = Call(
                    event["call"], event["key"], writer, event["reserved"], event["until"], event.get("batch", "")
                )
                self._open[call.id] = call
                self._by_key.setdefault(call.key, set()).add(call.id)
                self._reserved[writer] = self._reserved.get(writer, 0) + call.reserved
                if call.id in self._late:
                    self._end(call.id, self._late.pop(call.id))
            case "received":
                self._received[event["call"]] = place
            case "answered":
                self._answers.setdefault(event["key"], place)
                self._end(event["call"], _bill(event))
            case "failed" | "released" | "lost":
                self._end(event["call"], _bill(event))

    def _end(self, call_id: str, cost: int | None) -> None:
        """The first end of a call counts; a batch may be collected by two. ``cost`` None: the worst case."""
        if call_id in self._ended:
            return
        call = self._open.pop(call_id, None)
        if call is None:
            self._late.setdefault(call_id, cost)
            return
        self._ended.add(call_id)
        self._by_key[call.key].discard(call_id)
        self._reserved[call.writer] -= call.reserved
        self._spent[call.writer] = self._spent.get(call.writer, 0) + (call.reserved if cost is None else cost)


def _bill(event: dict[str, Any]) -> int | None:
    """What the end of a call cost; None for the worst case, also where an older version believed in a negative one."""
    cost: int | None = None if event["event"] == "lost" else event.get("cost", 0)
    return None if cost is None or cost < 0 else cost
