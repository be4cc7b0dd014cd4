"""The work loop: what fails is tried again and recorded, the others go on, and nothing done is done twice."""

from __future__ import annotations

import pytest

from jobs.base import TRIES_PER_SHARD, work
from launch.status import STALE_AFTER_SECONDS, status_of
from storage_layouts.errors import InputError
from storage_layouts.files import write_atomic
from storage_layouts.runs import Receipt, RunFolder


class Copier:
    """Writes a file a shard; fails as often as it is told."""

    def __init__(self, run, failures=None):
        self.run_folder, self.failures, self.ran = run, dict(failures or {}), []

    def run(self, shard):
        self.ran.append(shard.index)
        if self.failures.get(shard.index, 0):
            self.failures[shard.index] -= 1
            raise RuntimeError(f"no luck with {shard.index}")
        name = f"data/{shard.name}"
        return Receipt(shard.index, shard.items, {name: write_atomic(self.run_folder.path / name, b"x")})


@pytest.fixture
def run(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "extract", {"a": 1}, {})
    folder.write_plan(10, 2, {}, {})
    return folder


def test_a_failing_shard_is_retried_recorded_and_left_for_later(run):
    worker = Copier(run, {1: 1, 3: TRIES_PER_SHARD})
    failed = work(run, run.require_plan().shards(), lambda: worker, "one")
    assert [shard.index for shard in failed] == [3]
    assert worker.ran == [0, 1, 1, 2, 3, 3, 4]
    assert run.done() == {0, 1, 2, 4}
    status = status_of(run)
    assert (status.total, len(status.done), status.pending) == (5, 4, 0)
    assert status.failed[3].strip().endswith("RuntimeError: no luck with 3")
    again = Copier(run)
    assert work(run, run.require_plan().shards(), lambda: again, "two") == []
    assert again.ran == [3]
    assert run.is_complete()
    assert status_of(run).failed == {}
    assert run.heartbeats() == []


def test_a_worker_is_opened_only_when_something_is_missing(run):
    work(run, run.require_plan().shards(), lambda: Copier(run), "one")

    def never():
        raise AssertionError("opened for nothing")

    assert work(run, run.require_plan().shards(), never, "two") == []


def test_a_users_mistake_ends_the_worker_at_once(run):
    class Refusing:
        def run(self, shard):
            raise InputError("the disk is full")

    with pytest.raises(InputError, match="disk is full"):
        work(run, run.require_plan().shards(), Refusing, "one")
    assert [line["event"] for line in run.attempts_log()] == ["started", "failed"]


def test_status_tells_running_from_stale(run):
    run.beat("alive", shard=2)
    status = status_of(run)
    assert (status.running, status.stale, status.pending) == ({2}, set(), 4)
    beat = run.heartbeats()[0]["modified"]
    silent = status_of(run, now=beat + STALE_AFTER_SECONDS + 1)
    assert (silent.running, silent.stale) == (set(), {2})
