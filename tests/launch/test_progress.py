"""What commands say while they work: it moves inside a shard, and a log has no line twice."""

from __future__ import annotations

import io
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs.heartbeat import Heartbeat, under_way
from jobs.work import work
from launch import progress as shown
from launch.durations import rate
from launch.progress import StageProgress
from launch.run_status.reading import status_of
from launch.stage_summary import completed, useless
from storage_layouts.counts import counted, share
from storage_layouts.runs import Receipt, RunFolder


@pytest.fixture
def run(tmp_path):
    run = RunFolder.create(tmp_path / "run", "analyze", {"a": 1}, {})
    run.write_plan(10, 10, {}, {})
    return run


class Slow:
    """Computes its only shard in the steps that the test asks for."""

    def __init__(self):
        self.step, self.stepped = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, shard, progress):
        for items in range(1, shard.items + 1):
            self.step.acquire()
            progress(items, "busy")
            self.stepped.release()
        self.step.acquire()
        return Receipt(shard.index, shard.items, {})

    def steps(self, count):
        for _ in range(count):
            self.step.release()
            self.stepped.acquire()


def until(condition, seconds=20.0):
    """Whether something comes true in time."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def test_progress_moves_inside_the_only_shard(run, monkeypatch):
    monkeypatch.setattr(shown, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(shown, "SECONDS_BETWEEN_LOOKS", 0.0)
    log = io.StringIO()
    worker = Slow()
    thread = threading.Thread(target=work, args=(run, lambda: worker, "slow"), kwargs={"stale_after": 3.0})
    thread.start()
    try:
        with StageProgress(Console(file=log, width=200), "analyze") as progress:
            for items in (3, 6, 9):
                worker.steps(3)
                assert until(lambda items=items: status_of(run.path).items_under_way == items)
                progress.of(run)
                progress.of(run)
    finally:
        for _ in range(20):
            worker.step.release()
        thread.join()
    lines = log.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [f"analyze: {items} of 10 images" for items in (3, 6, 9)]
    assert ", busy" in lines[0]
    assert "image" in lines[2].split(", ")[2]  # the rate
    assert lines[2].endswith(" left")
    assert run.is_complete()
    assert status_of(run.path).items_under_way == 0


def test_items_of_silent_dead_and_finished_work_do_not_count():
    beats = [
        {"worker": "a", "shard": 1, "items": 3, "stale_after": 30, "modified": 1000.0, "dead": False},
        {"worker": "a again", "shard": 1, "items": 5, "stale_after": 30, "modified": 1000.0, "dead": False},
        {"worker": "silent", "shard": 2, "items": 100, "stale_after": 30, "modified": 969.0, "dead": False},
        {"worker": "dead", "shard": 3, "items": 100, "stale_after": 30, "modified": 1000.0, "dead": True},
        {"worker": "done", "shard": 4, "items": 100, "stale_after": 30, "modified": 1000.0, "dead": False},
        {"worker": "old version", "shard": 5, "modified": 1000.0, "dead": False},
        {"worker": "launcher", "role": "launcher", "shard": None, "modified": 1000.0, "dead": False},
    ]
    assert (under_way(beats, {4}).items, under_way(beats, {4}).workers) == (5, 4)
    assert under_way([], set()).items == 0


def test_a_heartbeat_tells_news_soon_and_rests_otherwise(run, monkeypatch):
    written = []
    monkeypatch.setattr(RunFolder, "beat", lambda self, name, **state: written.append((time.monotonic(), state)))
    with Heartbeat(run, "one", 30.0) as beat:
        for items in range(1000):
            beat.now(7, items)
        told = time.monotonic()
        assert until(lambda: (written[-1][1]["shard"], written[-1][1]["items"]) == (7, 999))
        assert written[-1][0] - told < 5.0  # the ordinary time between two beats
        assert len([state for _, state in written if state["items"]]) <= 2  # of a thousand, even if one came between


def test_a_full_disk_stops_no_work(run, monkeypatch):
    beat = RunFolder.beat

    def full(self, name, **state):
        if state["items"]:
            raise OSError(28, "No space left on device")
        beat(self, name, **state)

    monkeypatch.setattr(RunFolder, "beat", full)
    worker = Slow()
    for _ in range(20):
        worker.step.release()
    assert work(run, lambda: worker, "one", stale_after=0.1).exit_code == 0


def test_a_log_says_nothing_twice_and_at_most_a_line_in_ten_seconds(run, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: clock[0])
    log = io.StringIO()
    with StageProgress(Console(file=log, width=200), "analyze") as progress:
        for second in range(200):
            clock[0] = float(second)
            progress.of(run)
    assert log.getvalue().splitlines() == [
        "analyze: 0 of 10 images, waiting for workers",
        "analyze: 0 of 10 images, waiting for workers, unchanged for 1 min",
        "analyze: 0 of 10 images, waiting for workers, unchanged for 2 min",
        "analyze: 0 of 10 images, waiting for workers, unchanged for 3 min",
    ]


@given(st.integers(0, 10**7))
def test_numbers_have_their_unit(number):
    assert counted(number, "patch") == (f"{number:,} patch" if number == 1 else f"{number:,} patches")
    assert share(1, number, "image").endswith("image" if number == 1 else "images")


def test_rates_are_read_in_a_glance():
    assert [rate(per_second, "image") for per_second in (1234.5, 12.34, 0.05)] == [
        "1,234 images/s",
        "12.3 images/s",
        "20 s an image",
    ]


def test_a_complete_run_tells_what_it_holds(tmp_path):
    for stage, items, facts, told in (
        ("extract", 5503, {}, "5,503 rows in 1 shard"),
        ("analyze", 10, {"unreadable": [{"image_id": 3, "path": "x", "reason": "y"}]}, "9 of 10 images in 1 shard"),
        ("judge", 1, {}, "1 patch in 1 shard"),
        ("judge", 3, {"outcomes": {"a": {"yes": 2, "no": 1}, "b": {"yes": 2, "unparsable": 1}}}, None),
        ("train", 1, {}, "1 step in 1 shard"),
    ):
        run = RunFolder.create(
            tmp_path / f"{stage}{items}", stage, {"items": items}, {"results": {"path": "r", "run_id": "1"}}
        )
        run.write_plan(items, 10000, {}, {})
        run.write_receipt(Receipt(0, items, {}, facts))
        assert useless(run) == ""
        assert completed(run) == (told or "3 patches in 1 shard; 5 of 6 verdicts enter rates")


def test_images_of_which_none_could_be_read_are_in_vain(tmp_path):
    run = RunFolder.create(tmp_path / "run", "analyze", {}, {})
    run.write_plan(1, 10, {}, {})
    run.write_receipt(Receipt(0, 1, {}, {"unreadable": [{"image_id": 0, "path": "x", "reason": "y"}]}))
    assert useless(run) == "no image could be read"


def test_no_path_that_is_printed_goes_up(tmp_path):
    (tmp_path / "deep").mkdir()
    run = RunFolder.create(tmp_path / "deep" / ".." / "run", "extract", {}, {})
    assert run.path == tmp_path.resolve() / "run"
    assert RunFolder.open(tmp_path / "deep" / ".." / "run").path == run.path


def test_the_time_left_is_right_when_the_first_shards_of_several_workers_end_together():
    """Two workers, each of which computes eight images in 40 s, after 20 s in which they load the model."""
    pace = shown._Rate()
    found = {}
    for second in range(130):
        done = 8 * sum(end <= second for worker in (60, 62) for end in range(worker, 130, 40))
        pace.add(done, float(second), second >= 20)
        found[second] = pace.text(80 - done, "image", float(second))
    assert found[59] == ""
    assert found[62] == f", {rate(16 / 42, 'image')}, 2 min 48 s left"
    assert found[102] == f", {rate(32 / 82, 'image')}, 2 min 3 s left"
