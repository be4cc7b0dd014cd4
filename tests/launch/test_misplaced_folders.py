"""A folder in the place of a file of a run, or a file in the place of a folder: one line that names it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from launch import cli
from storage_layouts.runs import RunFolder
from tests.launch.test_status import finish, make_run

FILES = (
    *("run.json", "plan.json", "receipts/00000.json", "claims/00001-000.json", "failures/00002.json"),
    *("heartbeats/one.json", "attempts/one.jsonl"),
)
FOLDERS = ("receipts", "claims", "failures", "heartbeats", "attempts")
READ_BY = {
    "status": (*FILES[:2], *FILES[3:], "receipts", "claims", "failures"),
    "verify": (*FILES[:3], "receipts"),
}
"""Status only counts receipts, and takes a missing folder of logs for one without logs."""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Ten shards: 0 done, 1 claimed, 2 failed; a worker with log and heartbeat."""
    made = make_run(tmp_path / "run")
    log = made.attempt("one")
    log.started(0)
    finish(made, 0)
    log.finished(0, 1.0, 4, 100)
    made.take(1, "one")
    made.note_failure(2, "one", "Traceback:\nOSError: once")
    made.beat("one", shard=1, stale_after=30.0)
    return made


@pytest.mark.parametrize("place", [*FILES, *FOLDERS])
def test_it_is_named_in_one_line(run: RunFolder, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    where = run.path / place
    if where.is_dir():
        shutil.rmtree(where)
        where.write_text("not a folder")
    else:
        where.unlink()
        where.mkdir()
    for verb in ("status", "verify"):
        code = cli.main([verb, str(run.path)])
        said = capsys.readouterr()
        assert code in (1, 2)
        if place in READ_BY[verb]:
            assert place in said.out + said.err, (verb, said)
