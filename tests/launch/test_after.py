"""`--after RUN`: begin when another run is complete, or say why that will never be."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from PIL import Image

from launch import analyze, extract
from storage_layouts.runs import RunFolder
from tests.conftest import WORDS
from tests.forked_workers import start


@pytest.fixture
def commands(tmp_path, tiny_vlm_folder):
    """The flags of an extract command and of the analyze command that needs its store."""
    corpus, store = tmp_path / "corpus.txt", tmp_path / "store.zarr"
    corpus.write_text("\n".join(f"the {a} {b}" for a in WORDS for b in WORDS[:4]))
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photos" / "red.png")
    extract = ["--model", tiny_vlm_folder, "--corpus", corpus, "--out", store, "--rows-per-shard", "8"]
    flags = ["--model", tiny_vlm_folder, "--images", tmp_path / "photos", "--store", store]
    return [str(flag) for flag in extract], [str(flag) for flag in [*flags, "--out", tmp_path / "results"]]


@pytest.mark.slow
def test_a_stage_waits_for_a_run_that_is_being_made(commands, tmp_path):
    extract_flags, analyze_flags = commands
    store = tmp_path / "store.zarr"
    command = [sys.executable, "-m", "launch.cli", "extract", *extract_flags]
    first = start(command, stderr=subprocess.DEVNULL)
    while not (store / "plan.json").exists():  # from here on the other command may be given
        assert first.poll() is None
        time.sleep(0.05)
    assert not RunFolder.open(store).is_complete()
    assert analyze.main([*analyze_flags, "--after", str(store), "--workers", "1"]) == 0
    assert first.wait() == 0
    began = min(line["time"] for line in RunFolder.open(tmp_path / "results").attempts_log())
    assert began > max(line["time"] for line in RunFolder.open(store).attempts_log() if line["event"] == "finished")


@pytest.mark.slow
def test_a_stage_does_not_wait_for_the_dead(commands, tmp_path, capsys):
    extract_flags, analyze_flags = commands
    store = tmp_path / "store.zarr"
    assert extract.main(extract_flags) == 0
    for shard in (2, 5):
        (store / "receipts" / f"{shard:05d}.json").unlink()
    capsys.readouterr()
    assert analyze.main(analyze_flags) == 2  # without --after at once
    message = capsys.readouterr().err
    assert "store.zarr: 2 of 13 shards are missing (00002, 00005); repeat the command that makes this run" in message
    assert analyze.main([*analyze_flags, "--after", str(store), "--stale-after", "1"]) == 2
    message = capsys.readouterr().err
    assert "waiting for" in message
    assert "store.zarr: 2 of 13 shards are missing (00002, 00005); repeat the command that makes this run" in message
    assert not (tmp_path / "results" / "receipts").exists()
