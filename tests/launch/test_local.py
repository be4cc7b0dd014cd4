"""Real worker processes on this machine: any number, stopped, woken up, failing; the bytes are always the same."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.chaos import differences
from launch import extract
from storage_layouts.attempts import read_attempts
from storage_layouts.claims import read_claims
from storage_layouts.runs import RunFolder
from storage_layouts.verification import verify
from tests.conftest import WORDS

SHARDS = 41


@pytest.fixture(scope="module")
def flags(tmp_path_factory, tiny_llm_folder):
    """An extract command without --out, of many small shards."""
    corpus = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    corpus.write_text("\n".join(f"the {a} {b} on {c}" for a in WORDS for b in WORDS[:9] for c in WORDS[3:7]))
    return ["--model", str(tiny_llm_folder), "--corpus", str(corpus), "--per-token", "40", "--rows-per-shard", "8"]


@pytest.fixture(scope="module")
def undisturbed(flags, tmp_path_factory):
    """What one worker makes of it."""
    out = tmp_path_factory.mktemp("undisturbed") / "store.zarr"
    assert extract.main([*flags, "--out", str(out), "--workers", "1"]) == 0
    assert RunFolder.open(out).plan.shard_count == SHARDS
    return out


def test_the_number_of_workers_does_not_change_a_byte(flags, undisturbed, tmp_path):
    out = tmp_path / "store.zarr"
    assert extract.main([*flags, "--out", str(out), "--workers", "5"]) == 0
    assert differences(out, undisturbed) == []
    assert list((out / "claims").iterdir()) == list((out / "heartbeats").iterdir()) == []


def test_the_order_of_the_shards_does_not_change_a_byte(flags, undisturbed, tmp_path):
    """A second command takes up, from behind, a run of which pieces are there already."""
    out = tmp_path / "store.zarr"
    shutil.copytree(undisturbed, out)
    for shard in (*range(0, SHARDS, 3), SHARDS - 1):
        (out / "receipts" / f"{shard:05d}.json").unlink()
    worker = [sys.executable, "-m", "jobs.worker", str(out), "--device", "cpu", "--part", "4/5"]
    assert subprocess.run(worker, check=False).returncode == 0
    assert differences(out, undisturbed) == []


def test_a_stopped_worker_that_wakes_up_beside_its_replacement_leaves_one_valid_result(flags, undisturbed, tmp_path):
    out = tmp_path / "store.zarr"
    command = [sys.executable, "-m", "launch.cli", "extract", *flags, "--out", str(out)]
    process = subprocess.Popen([*command, "--workers", "2", "--stale-after", "1"], stderr=subprocess.DEVNULL)
    sleeper, shard = stop_a_worker_within_a_shard(out)
    try:
        wait_for(lambda: (out / "receipts" / f"{shard:05d}.json").exists())
        before = (out / "receipts" / f"{shard:05d}.json").read_bytes()
        replaced = {path: path.read_bytes() for path in (out / "layers").rglob(f"c.0.{shard}.*")}
        assert replaced
    finally:
        os.kill(sleeper, signal.SIGCONT)
    assert process.wait(120) == 0
    events = [line for line in RunFolder.open(out).attempts_log() if line["shard"] == shard]
    assert sorted(line["event"] for line in events) == ["finished", "finished", "started", "started"]
    assert (events[-1]["event"], events[-1]["pid"]) == ("finished", sleeper)
    assert (out / "receipts" / f"{shard:05d}.json").read_bytes() == before
    assert {path: path.read_bytes() for path in replaced} == replaced
    assert differences(out, undisturbed) == []
    assert verify(out).problems == []


def stop_a_worker_within_a_shard(out) -> tuple[int, int]:
    """SIGSTOP a worker that has claimed a shard and not finished it; returns its process id and the shard."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for claim in read_claims(out / "claims").values():
            if not (worker := claim.worker()):
                continue
            pid = int(worker.split("-")[-2])
            os.kill(pid, signal.SIGSTOP)
            receipt = out / "receipts" / f"{claim.shard:05d}.json"
            log = read_attempts(out / "attempts", worker)
            # Not so early that it would find its claim taken over and begin nothing; not so late that only the receipt
            # is missing: its own data must come after the others'.
            started = any((line["event"], line["shard"]) == ("started", claim.shard) for line in log)
            if started and not receipt.exists() and not list((out / "layers").rglob(f"c.0.{claim.shard}.*")):
                return pid, claim.shard
            os.kill(pid, signal.SIGCONT)
    raise AssertionError("no worker was met within a shard")


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_failing_shard_does_not_keep_the_others_and_is_mended_by_retry_failed(
    flags, undisturbed, tmp_path, monkeypatch, capsys
):
    broken = tmp_path / "broken"
    broken.mkdir()
    # Runs in every Python started from here: shard 3 fails in the worker processes.
    (broken / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'jobs.worker' in sys.orig_argv:\n"
        "    import jobs.extract_job\n"
        "    compute = jobs.extract_job.ExtractWorker.run\n"
        "    def run(self, shard, progress=None):\n"
        "        if shard.index == 3:\n"
        "            raise RuntimeError('CUDA error: an illegal memory access')\n"
        "        return compute(self, shard)\n"
        "    jobs.extract_job.ExtractWorker.run = run\n"
    )
    out = tmp_path / "store.zarr"
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", str(broken))
        assert extract.main([*flags, "--out", str(out), "--workers", "2"]) == 1
        message = capsys.readouterr().err
        assert "shard 3 failed 3 times: RuntimeError: CUDA error: an illegal memory access; log: " in message
        assert "--retry-failed" in message
        assert len(RunFolder.open(out).missing()) == 1
    began = time.monotonic()
    assert extract.main([*flags, "--out", str(out)]) == 1  # set aside: not tried again, no worker is started
    assert time.monotonic() - began < 5
    assert extract.main([*flags, "--out", str(out), "--retry-failed"]) == 0
    assert differences(out, undisturbed) == []


def test_a_folder_that_cannot_be_written_is_one_line_and_loses_nothing(flags, undisturbed, tmp_path, capsys):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a folder read-only")
    out = tmp_path / "store.zarr"
    shutil.copytree(undisturbed, out)
    (out / "receipts" / "00001.json").unlink()
    subprocess.run(["mount", "--bind", str(out), str(out)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(out)], check=True)
        assert extract.main([*flags, "--out", str(out)]) == 2
    finally:
        subprocess.run(["umount", str(out)], check=True)
    message = capsys.readouterr().err
    assert message.count("error: ") == 1
    assert "read-only file system; choose a folder that can be written" in message
    assert "Traceback" not in message
    assert extract.main([*flags, "--out", str(out)]) == 0
    assert differences(out, undisturbed) == []


def test_repeating_a_complete_command_notices_files_of_another_run(flags, undisturbed, tmp_path, capsys):
    out = tmp_path / "store.zarr"
    shutil.copytree(undisturbed, out)
    shard = "layers/norm/c.0.7"
    for name in ("zarr.json", shard):  # one that the planning wrote, and one of a shard
        data = (out / name).read_bytes()
        (out / name).write_bytes(data[::-1] if name == "zarr.json" else data[:-1])
        assert extract.main([*flags, "--out", str(out)]) == 2
        told = capsys.readouterr().err
        assert name in told
        remedy = "delete plan.json" if name == "zarr.json" else "delete receipts/00007.json"
        assert f"{remedy} and repeat the command" in told
        (out / remedy.removeprefix("delete ")).unlink()
        assert extract.main([*flags, "--out", str(out)]) == 0
    assert differences(out, undisturbed) == []
