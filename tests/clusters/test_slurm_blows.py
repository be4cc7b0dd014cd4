"""What happens to jobs on a real cluster: the run completes by itself, byte for byte the undisturbed one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chaos import differences
from launch.clusters.slurm_queue import queue_of
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder
from tests.clusters.conftest import computed_twice, receipts
from tests.clusters.slurm_runs import FRESH, SMALL, Strike, at_work, run_on_slurm

pytestmark = pytest.mark.usefixtures("slow_shards")


def running(out):
    """The element that runs, with its node."""
    return next(entry for entry in queue_of(RunFolder.open(out)) if entry.state == "RUNNING")


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def logs(out):
    return "".join(path.read_text() for path in (out / "submissions").glob("*/*_log.*"))


def strike_at(shards, blow):
    """A blow at a worker that has a shard in hand, when so many are done."""

    def run_blow(out: Path, strike: Strike) -> None:
        strike.when(lambda: receipts(out) >= shards and at_work(out), f"{shards} receipts and a worker at work")
        blow(out, strike)

    return run_blow


def worker_at_work(out, strike):
    """The pid of a worker that has a shard in hand."""
    return strike.when(lambda: at_work(out), "a worker at work")[0]["pid"]


def test_killed_elements_leave_their_shards_to_the_others_and_then_to_the_next_round(
    slurm, stage, undisturbed, tmp_path
):
    out = tmp_path / "store.zarr"

    def kill_one_and_then_the_other(out, strike):
        kill(worker_at_work(out, strike))
        done = receipts(out)
        strike.when(lambda: receipts(out) >= done + 8, "eight more receipts")
        kill(worker_at_work(out, strike))

    outcome = run_on_slurm(stage.job(out), strike_at(4, kill_one_and_then_the_other), workers=2)
    assert outcome.code == 0
    assert differences(out, undisturbed) == []
    assert computed_twice(out) <= 2
    assert len(list((out / "submissions").iterdir())) == 2


def test_a_job_that_somebody_requeues_goes_on_from_its_receipts(slurm, stage, undisturbed, tmp_path):
    out = tmp_path / "store.zarr"
    outcome = run_on_slurm(stage.job(out), strike_at(4, lambda out, strike: slurm.requeue(running(out).job)))
    assert outcome.code == 0
    assert differences(out, undisturbed) == []
    assert computed_twice(out) <= 1
    assert len({line["pid"] for line in RunFolder.open(out).attempts_log()}) == 2
    assert len(list((out / "submissions").iterdir())) == 1


@pytest.mark.parametrize("signal_first", [True, False])
def test_a_job_that_a_more_urgent_one_drives_out_goes_on_elsewhere(slurm, stage, undisturbed, tmp_path, signal_first):
    out = tmp_path / "store.zarr"

    def preempt(out, strike):
        slurm.submit_blocker(300, f"--nodelist={running(out).node}", "--exclusive")

    with slurm.configured(preemption_signal=signal_first):
        outcome = run_on_slurm(stage.job(out), strike_at(1, preempt), slurm=FRESH)
    assert outcome.code == 0
    assert differences(out, undisturbed) == []
    assert computed_twice(out) <= 1
    assert ("Requeued job" in logs(out)) == signal_first
    assert len({line["pid"] for line in RunFolder.open(out).attempts_log()}) == 2
    assert len(list((out / "submissions").iterdir())) == 1


def test_a_controller_that_is_away_for_a_while_harms_nothing(slurm, stage, undisturbed, tmp_path):
    out = tmp_path / "store.zarr"

    def outage(out, strike):
        done = receipts(out)
        with slurm.no_controller():
            strike.when(lambda: receipts(out) >= done + 8, "eight more receipts")

    outcome = run_on_slurm(stage.job(out), strike_at(4, outage))
    assert outcome.code == 0
    assert differences(out, undisturbed) == []
    assert computed_twice(out) == 0
    assert len(list((out / "submissions").iterdir())) == 1


def stopped_in_a_shard(out, worker):
    """Stop the worker; if that met it between two shards, let it go on."""
    os.kill(worker, signal.SIGSTOP)
    last = [line["event"] for line in RunFolder.open(out).attempts_log() if line["pid"] == worker][-1]
    if last != "started":
        os.kill(worker, signal.SIGCONT)
    return last == "started"


@pytest.mark.slow
def test_a_folder_that_turns_read_only_is_said_once_and_loses_nothing(slurm, stage, undisturbed, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a folder read-only")
    out = tmp_path / "store.zarr"

    def turn_read_only(out, strike):
        subprocess.run(["mount", "--bind", str(out), str(out)], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(out)], check=True)

    try:
        with pytest.raises(InputError, match="read-only file system; choose a folder that can be written") as refused:
            run_on_slurm(stage.job(out), strike_at(4, turn_read_only))
    finally:
        slurm.cancel_all()
        subprocess.run(["umount", str(out)], check=True)
    assert "\n" not in str(refused.value)
    assert "Read-only file system" in logs(out)
    assert receipts(out) < RunFolder.open(out).require_plan().shard_count
    assert run_on_slurm(stage.job(out)).code == 0
    assert differences(out, undisturbed) == []


def test_a_lost_node_whose_worker_wakes_up_beside_its_replacement(slurm, stage, undisturbed, tmp_path):
    """The node is cut off and its worker stands still; SLURM starts another, and then the first one goes on."""
    out, lost = tmp_path / "store.zarr", []

    def cut_off(out, strike):
        lost.extend([running(out).node, worker_at_work(out, strike)])
        slurm.kill_node(lost[0], tasks=False)
        os.kill(lost[1], signal.SIGSTOP)
        done = receipts(out)
        strike.when(lambda: receipts(out) >= done + 4, "four receipts of the replacement")
        os.kill(lost[1], signal.SIGCONT)

    try:
        outcome = run_on_slurm(stage.job(out), strike_at(4, cut_off))
        assert outcome.code == 0
        assert differences(out, undisturbed) == []
        finished = [line["pid"] for line in RunFolder.open(out).attempts_log() if line["event"] == "finished"]
        assert finished.count(lost[1]) >= 5  # it finished something after it woke up
        assert len(set(finished)) == 2
        assert len(list((out / "submissions").iterdir())) == 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(lost[1], signal.SIGCONT)
        slurm.start_node(lost[0])
        slurm.wait_for_nodes()


@pytest.mark.slow
def test_a_time_limit_requeues_a_worker_that_gets_on_and_refuses_one_that_does_not(slurm, stage, undisturbed, tmp_path):
    """Two runs at once: the shards of one take longer and longer, the only shard of the other takes too long."""
    out = tmp_path / "store.zarr"
    stuck = stage.job(tmp_path / "stuck.zarr", rows_per_shard=2**20)
    refusals = []

    def run_stuck():
        try:
            endless = ("export LENSCORE_TEST_SHARD_SECONDS=600",)
            run_on_slurm(stuck, slurm=replace(SMALL, time="1", setup=endless))
        except InputError as refusal:
            refusals.append(str(refusal))

    def hold(out, strike):
        """A shard that takes as long as is left then: no other may be begun after it."""
        worker = worker_at_work(out, strike)
        began = slurm.run("squeue", "--noheader", "--format=%S", f"--jobs={running(out).job}")
        # SLURM's signal comes 15 s before the end, or up to a minute earlier.
        leaves = time.mktime(time.strptime(began, "%Y-%m-%dT%H:%M:%S")) + 3 * 60 - 75
        strike.when(lambda: stopped_in_a_shard(out, worker), "a worker that was stopped in a shard")
        held_until = (time.time() + leaves) / 2 + 1
        try:
            strike.when(lambda: time.time() > held_until, "the end of a long shard")
        finally:
            os.kill(worker, signal.SIGCONT)

    other = threading.Thread(target=run_stuck, daemon=True)
    other.start()
    outcome = run_on_slurm(stage.job(out), strike_at(4, hold), slurm=replace(FRESH, time="3"))
    other.join()
    assert outcome.code == 0
    assert "Requeued job" in logs(out)
    assert computed_twice(out) == 0  # it began no shard that could not end
    assert len({line["pid"] for line in RunFolder.open(out).attempts_log()}) == 2
    assert differences(out, undisturbed) == []
    (words,) = refusals
    # On a busy machine the model is not even loaded by then.
    assert re.search(r"(shard 0 did not finish|not one shard was begun) within --time 1 \(minutes\)", words)
    assert "smaller --rows-per-shard" in words
