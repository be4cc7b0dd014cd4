"""Tables written in pieces, and what Arrow's threads keep of those that are read."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage_layouts import tables
from storage_layouts.errors import MachineError
from storage_layouts.files import digest_file
from storage_layouts.tables import parse_table, table_writer, write_table

GROUP = 1000
LINES = pa.schema([("n", pa.int32()), ("text", pa.string()), ("parts", pa.list_(pa.struct([("x", pa.float32())])))])


def lines(count: int) -> pa.Table:
    rng = np.random.default_rng(count)
    parts = [None if number % 7 == 0 else [{"x": x} for x in rng.random(number % 4)] for number in range(count)]
    return pa.table({"n": range(count), "text": rng.integers(0, 2**60, count).astype(str), "parts": parts}, LINES)


@pytest.mark.parametrize("count", [0, 1, GROUP - 1, GROUP, GROUP + 1, 2 * GROUP, 3 * GROUP + 500])
@pytest.mark.parametrize("piece", [1, 137, GROUP, 10**6])
def test_a_file_written_in_pieces_has_the_bytes_of_the_whole_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, piece: int
) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP", GROUP)
    table = lines(count)
    pq.write_table(table, tmp_path / "whole", row_group_size=GROUP, compression="zstd", compression_level=3)
    with table_writer(tmp_path / "pieces", LINES) as writer:
        for first in range(0, count, max(piece, count // 50)):
            writer.add(table[first : first + max(piece, count // 50)])
        assert not (tmp_path / "pieces").exists()
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()
    assert writer.digest == digest_file(tmp_path / "whole")


def test_a_block_that_raises_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP", GROUP)

    def interrupted() -> None:
        with table_writer(tmp_path / "file", LINES) as writer:
            writer.add(lines(3 * GROUP))
            assert [path.stat().st_size > GROUP for path in tmp_path.iterdir()] == [True]  # most is on the disk
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ValueError, match="columns"):
        write_table(tmp_path / "file", lines(2 * GROUP).drop_columns("n"), LINES)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_in_the_middle_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP", GROUP)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(MachineError, match="file: cannot write: file too large"):
            write_table(tmp_path / "file", lines(20 * GROUP), LINES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_arrow_holds_nothing_of_the_bytes_when_a_table_has_been_read(tmp_path: Path) -> None:
    """Its threads would need the interpreter to let go of them, and abort a process that is just ending."""
    table = pa.table({f"column {number}": list(range(500)) for number in range(6)})
    write_table(tmp_path / "table", table, table.schema)
    data = (tmp_path / "table").read_bytes()
    held = sys.getrefcount(data)
    for _ in range(500):  # of Python's own bytes about every twentieth reading still held some
        assert parse_table(Path("table.parquet"), data, table.schema) == table
        assert sys.getrefcount(data) == held
