"""Crash safety of single files, with real kills, real limits and simulated full disks."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_layouts import files
from storage_layouts.errors import CorruptError, InputError
from storage_layouts.files import (
    FileDigest,
    check_file,
    digest_file,
    is_leftover,
    json_bytes,
    parse_json,
    publish_first,
    read_checked,
    read_json,
    sync_tree,
    write_atomic,
    write_json,
)

SPAWN = multiprocessing.get_context("spawn")


class PowerCut(BaseException):
    """Ends a write at once, as no except clause would expect."""


def test_bytes_then_name_then_folder_reach_the_disk_in_this_order(tmp_path: Path, monkeypatch) -> None:
    target, steps = tmp_path / "file", []
    fsync, replace = os.fsync, Path.replace

    def spied_fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        steps.append(("fsync", "folder" if path == tmp_path else "aside", target.exists()))
        fsync(descriptor)

    def spied_replace(self: Path, other: Path) -> Path:
        steps.append(("rename", self.read_bytes(), other.exists()))
        return replace(self, other)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(Path, "replace", spied_replace)
    digest = write_atomic(target, b"data")
    assert steps == [("fsync", "aside", False), ("rename", b"data", False), ("fsync", "folder", True)]
    assert digest == digest_file(target) == FileDigest(4, "adf3f363")  # crc32 of b"data" by zlib and gzip


@pytest.mark.parametrize("step", ["open", "write", "fsync", "link", "replace"])
@pytest.mark.parametrize("write", [write_atomic, publish_first])
def test_a_write_cut_off_anywhere_leaves_all_or_nothing(tmp_path: Path, monkeypatch, write, step: str) -> None:
    target = tmp_path / "file"
    if write is write_atomic:
        target.write_bytes(b"old")
    before = target.read_bytes() if target.exists() else None

    def cut(*_: object, **__: object) -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "replace") if step == "replace" else (os, step)), cut)
        try:
            write(target, b"new" * 1000)
        except PowerCut:
            assert (target.read_bytes() if target.exists() else None) == before
        else:
            assert target.read_bytes() == b"new" * 1000  # this way of writing has no such step
    assert [file.name for file in tmp_path.iterdir()] in ([], ["file"])


WRITER = """
import sys
from pathlib import Path
from storage_layouts.files import write_atomic
number = 0
while True:
    write_atomic(Path(sys.argv[1]), bytes([number % 256]) * 3_000_000)
    number += 1
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    for attempt in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)])
        while not target.exists():
            assert writer.poll() is None
            time.sleep(0.005)
        time.sleep(0.02 + 0.013 * attempt)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        data = target.read_bytes()
        assert len(data) == 3_000_000
        assert data == data[:1] * len(data)
        target.unlink()
    assert all(is_leftover(file.name) for file in tmp_path.iterdir())


def publish_many(folder: str, worker: int, count: int, queue) -> None:
    won = [name for name in range(count) if publish_first(Path(folder) / str(name), f"worker {worker}".encode())]
    queue.put((worker, won))


def test_of_two_processes_publishing_exactly_one_wins(tmp_path: Path) -> None:
    queue, count = SPAWN.Queue(), 60
    workers = [SPAWN.Process(target=publish_many, args=(str(tmp_path), w, count, queue)) for w in (1, 2)]
    for worker in workers:
        worker.start()
    won = dict(queue.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert sorted(won[1] + won[2]) == list(range(count))
    for worker, names in won.items():
        assert all((tmp_path / str(name)).read_bytes() == f"worker {worker}".encode() for name in names)
    assert len(list(tmp_path.iterdir())) == count


def test_publishing_works_without_hard_links(tmp_path: Path, monkeypatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    assert publish_first(tmp_path / "file", b"first")
    assert not publish_first(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"


@pytest.mark.parametrize(
    ("call", "code", "said"),
    [
        ("write", errno.ENOSPC, "disk full"),
        ("fsync", errno.ENOSPC, "disk full"),
        ("fsync", errno.EDQUOT, "quota"),
        ("open", errno.EROFS, "read-only"),
        ("open", errno.EACCES, "permission denied"),
        ("link", errno.ENOSPC, "disk full"),
        ("open", errno.EMFILE, "too many open files"),
        ("fsync", errno.EIO, "input/output error"),
        ("write", errno.ESTALE, "network file system"),
    ],
)
def test_a_refusal_of_the_disk_is_one_line(tmp_path: Path, monkeypatch, call: str, code: int, said: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, "refused")

    target = tmp_path / "receipts" / "00012.json"
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(InputError) as refused:
            publish_first(target, b"data")
    message = str(refused.value)
    assert str(target.parent) in message
    assert said in message
    assert "\n" not in message
    assert not target.exists()
    assert not list(tmp_path.glob("*/*"))


def test_a_real_limit_that_cuts_a_write_in_two(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(InputError, match=r"big: cannot write: file too large"):
            write_atomic(tmp_path / "big", bytes(25_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"not a folder|place of a folder"):
        write_atomic(tmp_path / "file" / "inner", b"")


def test_other_errors_of_the_system_pass_through(tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EBADF, "closed")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="closed"):
        write_atomic(tmp_path / "file", b"data")


def test_a_changed_file_is_named_with_found_expected_and_remedy(tmp_path: Path) -> None:
    file = tmp_path / "file"
    digest = write_atomic(file, b"data")
    sync_tree([file])
    check_file(file, digest)
    assert read_checked(file, digest) == b"data"
    for change, found in ((b"dada", "4 bytes, crc32 "), (b"dat", "3 bytes"), (None, "no such file")):
        file.unlink() if change is None else file.write_bytes(change)
        for read in (check_file, read_checked):
            with pytest.raises(CorruptError) as damage:
                read(file, digest, "repeat the command")
            message = str(damage.value)
            assert message.startswith(f"{file}: found {found}")
            assert message.endswith("expected 4 bytes, crc32 adf3f363; repeat the command")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8).filter(lambda key: key != "crc32"), JSON, max_size=4))
def test_json_files_keep_their_content(content: dict) -> None:
    data = json_bytes(content)
    assert parse_json(Path("f"), data) == json.loads(json.dumps(content))
    assert data == json_bytes(dict(reversed(content.items())))


def test_any_changed_byte_of_a_json_file_is_noticed(tmp_path: Path) -> None:
    content = {"b": [1, 2.5, None, True], "a": {"text": "grün\n", "empty": {}}, "path": "/x"}
    write_json(tmp_path / "f.json", content)
    assert read_json(tmp_path / "f.json") == content
    data = (tmp_path / "f.json").read_bytes()
    for place in range(len(data)):
        for mask in range(1, 256):
            broken = data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]
            with pytest.raises(CorruptError):
                parse_json(tmp_path / "f.json", broken)
        for other in (data[:place], data[:place] + b" " + data[place:], data[:place] + data[place + 1 :]):
            with pytest.raises(CorruptError):
                parse_json(tmp_path / "f.json", other)


def test_json_that_has_no_canonical_form_is_refused() -> None:
    for content in ({"x": float("nan")}, {"crc32": "mine"}):
        with pytest.raises(ValueError, match=r"JSON compliant|own checksum"):
            json_bytes(content)
    assert files.canonical_json({"b": 1, "a": "\ud800"}) == rb'{"a": "\ud800", "b": 1}'
