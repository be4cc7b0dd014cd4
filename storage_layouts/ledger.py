"""The ledger: every request to a paid judge, recorded before it is sent, and every reply, recorded before it is parsed.

    ledger/<run id>-<writer>.jsonl    one file per writer, one JSON object per line, each line fsynced

The first line of a file identifies its writer. Then, per call (one request sent once):

    sent       key, maximal cost, and the time when it has certainly ended; written before the request is sent
    received   status and text of the reply, unchanged; written before it is parsed
    answered   content and cost of the reply; a key with an answer is never sent again
    failed     the reply is not an answer, with its cost; the key may be sent again
    released   the service refused it, or it was never sent: costs nothing
    lost       no reply, or only a part of it: whether it was paid is unknown, so the maximal cost counts as spent

A call with a reply, but without one of the four last lines, is parsed when its key is needed again; it is not sent
again. Money is in nanodollars (1e-9 dollars), so that sums are exact. `storage_layouts.ledger_lines` describes the
lines. In files of older versions the reply is in the line "answered".
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
"""Maximal difference between the clocks of two machines. With a larger one, a call under way on one of them may be
"unknown" on the other; it is sent a second time only if the user asks to resend unknown calls."""
ROOM_BYTES = 1 << 20
"""Disk space reserved for the replies to the calls under way."""

State = Literal["free", "under way", "kept", "unknown", "answered"]


@dataclass(frozen=True)
class Call:
    """A request that was sent, or was about to be sent.

    Attributes:
        id: unique among all ledgers.
        key: hash of all inputs of the reply.
        writer: name of the file that it is in.
        reserved: maximal cost, nanodollars.
        until: Unix seconds after which it has certainly ended.
        batch: name of its batch, or "".

    """

    id: str
    key: str
    writer: str
    reserved: int
    until: float
    batch: str = ""


@dataclass
class _File:
    """State of one writer's file."""

    reader: Reader
    process: dict[str, Any] = field(default_factory=dict)
    is_final: bool = False  # its writer had ended before it was read to its end


class Ledger:
    """All files of a ledger folder, and this writer's own file, which is created by the first call.

    Attributes:
        folder: the ledger folder.
        writer: name of the own file.
        calls_sent: number of calls in the own file.

    """

    def __init__(self, folder: Path | str, run_id: str) -> None:
        self.folder = Path(folder)
        self.writer = f"{run_id}-{unique_name()}"
        self._run = run_id
        self.calls_sent = 0
        self._files: dict[str, _File] = {}
        self._open: dict[str, Call] = {}  # by call id
        self._by_key: dict[str, set[str]] = {}
        self._ended: set[str] = set()
        self._answers: dict[str, tuple[str, int, int]] = {}  # key: file, first byte, length
        self._spent: dict[str, int] = {}  # by writer
        self._reserved: dict[str, int] = {}
        self._late: dict[str, int | None] = {}  # costs of ended calls whose line "sent" is in a file read later
        self._received: dict[str, tuple[str, int, int]] = {}  # by call id, as _answers
        self._own = LineFile(self._path(self.writer), ROOM_BYTES)

    # Reading

    def refresh(self) -> None:
        """Read the new lines of the other writers. CorruptError for a line that was changed."""
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
        """Process the new lines of a file."""
        file = self._file(writer)
        for line in file.reader.read():
            try:
                self._take(writer, line)
            except (KeyError, TypeError, AttributeError) as error:
                found = f"an event that lacks {error} at byte {line.at}"
                raise CorruptError(file.reader.path, found, "a ledger's line as it was written", REMEDY) from None

    def state(self, key: str, now: float | None = None) -> State:
        """State of a request.

        "answered"; "kept": a reply was received but not parsed; "free": it may be sent; "under way": another writer has
        sent it; "unknown": it has ended without a reply and may have been paid.
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
        """The answer to a request as passed to `answered`, with its ``cost``; None if there is none."""
        if key not in self._answers:
            return None
        found = self._event(*self._answers[key])
        return {**found["answer"], "cost": found["cost"]}

    def kept(self, key: str) -> Call | None:
        """A call whose reply was received but is not parsed by another living writer; None if there is none."""
        for call in self.open_calls(key):
            mine = bool(call.batch) or call.writer == self.writer
            if call.id in self._received and (mine or not self._is_under_way(call, time.time())):
                return call
        return None

    def received_of(self, call: Call) -> tuple[int, str, bool]:
        """The reply to a call as passed to `received`: status, text, and whether it is complete."""
        found = self._event(*self._received[call.id])
        return found["status"], found["text"], found["whole"]

    def _event(self, writer: str, at: int, length: int) -> dict[str, Any]:
        """The event of a line, read again: replies are too large to be kept in memory."""
        with self._path(writer).open("rb") as source:
            source.seek(at)
            found: dict[str, Any] = json.loads(source.read(length))
        return found

    def open_calls(self, key: str | None = None) -> list[Call]:
        """The calls of all writers that have not ended, of all keys or of one."""
        if key is None:
            return list(self._open.values())
        return [self._open[call] for call in sorted(self._by_key.get(key, ()))]

    def committed(self, writer: str) -> tuple[int, int]:
        """Nanodollars that a writer's calls have cost, and the maximal cost of its open calls."""
        return self._spent.get(writer, 0), self._reserved.get(writer, 0)

    def is_gone(self, writer: str) -> bool:
        """Whether a writer has certainly ended. False if it runs elsewhere or this is unknown."""
        file = self._files.get(writer)
        return file is not None and bool(file.process) and is_gone(file.process)

    def _is_under_way(self, call: Call, now: float) -> bool:
        if call.writer == self.writer or call.batch:  # a batch continues at the server when its writer has ended
            return True
        return now < call.until + CLOCKS_DIFFER_SECONDS and not self.is_gone(call.writer)

    # Writing

    def sent(self, requests: Iterable[tuple[str, int]], until: float, batch: str = "") -> list[Call]:
        """Record that requests (key, maximal nanodollars) are about to be sent; on the disk when this returns."""
        calls = []
        for key, reserved in requests:
            self.calls_sent += 1
            calls.append(Call(f"{self.writer}:{self.calls_sent}", key, self.writer, reserved, until, batch))
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
        """Record that calls cost nothing."""
        self._write([{"event": "released", "call": call.id} for call in calls])

    def lost(self, calls: Iterable[Call]) -> None:
        """Record that calls got no reply: their maximal cost counts as spent, and the keys may be sent again."""
        self._write([{"event": "lost", "call": call.id} for call in calls])

    def received(self, call: Call, status: int, text: str, whole: bool = True) -> None:
        """Record the reply to a call before it is parsed; on the disk when this returns.

        Args:
            call: the call.
            status: of HTTP.
            text: the body; bytes that are not UTF-8 as lone surrogates.
            whole: whether the body is complete.

        """
        self._write([{"event": "received", "call": call.id, "status": status, "text": text, "whole": whole}])

    def answered(self, call: Call, answer: dict[str, Any], cost: int) -> None:
        """Record the content (JSON) of the reply to a call and its cost in nanodollars."""
        self._write([{"event": "answered", "call": call.id, "key": call.key, "cost": cost, "answer": answer}])

    def failed(self, call: Call, cost: int) -> None:
        """Record that the reply to a call is not an answer, and its cost: the key may be sent again."""
        self._write([{"event": "failed", "call": call.id, "cost": cost}])

    def close(self) -> None:
        """Close the own file."""
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

    # Reading a line

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
        """End a call; ``cost`` None is the maximal cost. Only its first end counts: two may collect a batch."""
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
    """Cost of a call that has ended; None for the maximal cost, also for a negative cost from an older version."""
    cost: int | None = None if event["event"] == "lost" else event.get("cost", 0)
    return None if cost is None or cost < 0 else cost
