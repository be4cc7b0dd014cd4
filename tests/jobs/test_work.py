"""The work loop: shards are shared without a server, failures are counted, and nothing done is done twice."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.claiming import in_order_of_taking
from jobs.work import FAILURES_IN_A_ROW, Deadline, work
from storage_layouts.errors import InputError
from storage_layouts.failures import MAX_TRIES
from storage_layouts.files import write_atomic
from storage_layouts.runs import Plan, Receipt, RunFolder


class Copier:
    """Writes a file a shard; fails as often as it is told."""

    def __init__(self, run, failures=None, seconds=0.0):
        self.run_folder, self.failures, self.seconds, self.ran = run, dict(failures or {}), seconds, []

    def run(self, shard, progress=None):
        self.ran.append(shard.index)
        time.sleep(self.seconds)
        if self.failures.get(shard.index, 0):
            self.failures[shard.index] -= 1
            raise RuntimeError(f"no luck with {shard.index}")
        name = f"data/{shard.name}"
        return Receipt(shard.index, shard.items, {name: write_atomic(self.run_folder.path / name, b"x")})


def make_run(path, shards):
    run = RunFolder.create(path / "run", "extract", {"a": 1}, {})
    run.write_plan(shards * 2, 2, {}, {})
    return run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path, 5)


def test_a_failing_shard_comes_last_again_and_is_mended(run):
    worker = Copier(run, {1: 1})
    report = work(run, lambda: worker, "one", log="/logs/one.err")
    assert worker.ran == [0, 1, 2, 3, 4, 1]
    assert (report.finished, report.failed, report.exit_code) == (5, (), 0)
    assert run.is_complete()
    assert run.failures() == {}  # a shard with a receipt has not failed, whatever happened before


def test_a_shard_that_keeps_failing_is_set_aside_and_retried_when_asked(run):
    worker = Copier(run, {3: 99})
    report = work(run, lambda: worker, "one", log="/logs/one.err")
    assert run.done() == {0, 1, 2, 4}
    assert worker.ran.count(3) == MAX_TRIES
    assert (report.failed, report.exit_code) == ((3,), 1)
    assert run.quarantined() == {3}
    assert not run.unfinished()
    failure = run.failures()[3]
    assert (failure["tries"], failure["worker"], failure["log"]) == (MAX_TRIES, "one", "/logs/one.err")
    assert failure["traceback"].strip().endswith("RuntimeError: no luck with 3")

    def never():
        raise AssertionError("opened for nothing")

    assert work(run, never, "two").exit_code == 0
    assert run.retry_failed() == 1
    assert run.unfinished()
    assert work(run, lambda: Copier(run), "three").finished == 1
    assert run.is_complete()


def test_the_tries_of_all_workers_count_together(run):
    for number in range(MAX_TRIES):
        run.note_failure(2, f"w{number}", "Traceback")
    worker = Copier(run)
    work(run, lambda: worker, "one")
    assert 2 not in worker.ran


def test_a_shard_that_was_set_aside_meanwhile_is_not_taken_from_an_old_list(run):
    class Watching(Copier):
        def run(self, shard, progress=None):
            if shard.index == 0:
                for _ in range(MAX_TRIES):
                    run.note_failure(3, "another", "Traceback")
            return super().run(shard)

    worker = Watching(run)
    work(run, lambda: worker, "one")
    assert worker.ran == [0, 1, 2, 4]
    assert run.failures()[3]["tries"] == MAX_TRIES
    assert run.claims() == {}


def test_a_dead_workers_shard_that_was_set_aside_meanwhile_is_not_taken_over(run):
    for shard in (0, 1, 2):
        run.write_receipt(Copier(run).run(run.plan.shard(shard)))
    for shard in (3, 4):  # of a worker that has ended: claims without a heartbeat
        run.take(shard, "ended")

    class Watching(Copier):
        def run(self, shard, progress=None):
            for _ in range(MAX_TRIES):
                run.note_failure(4, "another", "Traceback")
            return super().run(shard)

    worker = Watching(run)
    work(run, lambda: worker, "one")
    assert worker.ran == [3]
    assert run.failures()[4]["tries"] == MAX_TRIES


def test_a_worker_that_fails_at_everything_stops_before_it_ruins_the_run(tmp_path):
    run = make_run(tmp_path, 40)
    sick = Copier(run, dict.fromkeys(range(40), 99))
    report = work(run, lambda: sick, "sick")
    assert len(sick.ran) == FAILURES_IN_A_ROW
    assert "one after the other" in report.broken
    assert run.quarantined() == set()
    assert work(run, lambda: Copier(run), "sound").exit_code == 0
    assert run.is_complete()


def test_a_users_mistake_ends_the_worker_at_once_and_gives_the_shard_back(run):
    class Refusing:
        def run(self, shard, progress=None):
            raise InputError("the disk is full")

    report = work(run, Refusing, "one")
    assert (report.refused, report.exit_code) == ("the disk is full", 2)
    assert [line["event"] for line in run.attempts_log()] == ["started", "refused"]
    assert (run.claims(), run.failures(), run.heartbeats()) == ({}, {}, [])


def test_a_worker_that_cannot_be_opened_reports_its_traceback(run):
    report = work(run, lambda: 1 / 0, "one")
    assert "ZeroDivisionError" in report.broken
    assert run.attempts_log()[-1]["event"] == "broken"
    assert run.claims() == {}


def test_no_shard_is_begun_that_would_not_end_in_time(run):
    began = time.time()
    report = work(run, lambda: Copier(run, seconds=0.5), "one", deadline=Deadline(at=began + 1.3))
    assert time.time() - began < 1.4
    assert (report.finished, report.out_of_time) == (2, True)
    assert run.claims() == {}


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_at_once_share_all_shards_and_compute_none_twice(tmp_path, workers):
    run = make_run(tmp_path, 60)
    copiers = [Copier(run, seconds=0.05 * (i > 0)) for i in range(workers)]

    def one(i):
        work(run, lambda: copiers[i], f"w{i}", i, workers)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run.is_complete()
    assert Counter(index for copier in copiers for index in copier.ran) == Counter(range(60))
    # The slow ones were helped: the fast one did more than its own slice.
    assert len(copiers[0].ran) > 60 // workers
    assert (run.claims(), run.heartbeats()) == ({}, [])


def test_a_silent_workers_shard_is_taken_over_and_a_live_ones_is_not(run):
    run.beat("silent", stale_after=0.6)
    assert run.take(1, "silent")
    stop = threading.Event()

    def live():
        while not stop.wait(0.05):
            run.beat("live", stale_after=0.6)

    run.beat("live", stale_after=0.6)
    # Beats of another machine, so that only the silence tells.
    for name in ("silent", "live"):
        file = run.path / "heartbeats" / f"{name}.json"
        file.write_text(file.read_text().replace('"machine": "', '"machine": "elsewhere'))
    assert run.take(3, "live")
    thread = threading.Thread(target=live)
    thread.start()
    try:
        copier = Copier(run)
        began = time.monotonic()
        report = work(run, lambda: copier, "thief", stale_after=0.6)
        assert copier.ran == [0, 2, 4, 1]
        assert 0.5 < time.monotonic() - began < 10
    finally:
        stop.set()
        thread.join()
    assert report.exit_code == 0
    assert list(run.claims()) == [3]
    assert run.claims()[3].worker() == "live"


def test_the_shard_of_a_process_that_was_killed_here_is_taken_over_at_once(run):
    code = (
        "import sys; from storage_layouts.runs import RunFolder; run = RunFolder.open(sys.argv[1]);"
        "run.beat('killed', stale_after=3600); run.take(0, 'killed'); print('ready', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    assert not run.heartbeats()[0]["dead"]
    process.kill()
    process.wait()
    assert run.heartbeats()[0]["dead"]
    began = time.monotonic()
    assert work(run, lambda: Copier(run), "heir", stale_after=3600).finished == 5
    assert time.monotonic() - began < 10
    assert run.is_complete()


def test_a_chain_is_taken_in_order_and_stops_where_it_is_broken(run):
    run.take(1, "dead")
    copier = Copier(run, {2: 1, 4: MAX_TRIES})
    report = work(run, lambda: copier, "one", part=1, parts=2, in_order=True)
    assert copier.ran == [0, 1, 2, 2, 3, *[4] * MAX_TRIES]
    assert (report.finished, report.failed) == (4, (4,))

    # Behind a shard that cannot be computed nothing is begun.
    (run.path / "receipts/00001.json").unlink()
    run.note_failure(1, "one", "traceback")
    copier = Copier(run, {1: MAX_TRIES})
    work(run, lambda: copier, "two", in_order=True)
    assert copier.ran == [1] * (MAX_TRIES - 1)


def test_what_was_finished_while_claiming_is_not_done_again(run):
    claim = run.take(0, "early")
    run.write_receipt(Copier(run).run(run.plan.shard(0)))
    run.drop(claim)
    assert run.take(0, "late") is None
    assert run.claims() == {}


@given(st.integers(0, 60), st.integers(1, 9), st.data())
def test_every_order_of_taking_has_every_shard_once_and_its_own_slice_first(count, parts, data):
    part = data.draw(st.integers(0, parts - 1))
    shards = Plan(count, 1).shards()
    order = [shard.index for shard in in_order_of_taking(shards, part, parts)]
    assert sorted(order) == list(range(count))
    own = list(range(count))[part::parts]
    assert order[: len(own)] == own
