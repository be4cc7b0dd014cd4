"""Runs that an earlier version made are taken up, verified, reported and read by this one; see stored_runs/make.py."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from launch import cli
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.quantize import decode_unit
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts
from tests.run_bytes import bytes_of
from tests.stored_runs.make import ANALYZE, COMMIT, EXTRACT, JUDGE, PAID, hub_cache, judge_server, lens, runs_folder

ARCHIVE = Path(__file__).parent / "stored_runs" / "runs.tar.gz"
WHOLE = ("store.zarr", "results", "verdicts", "paid")
PARTS = {"part.zarr": f"extract {EXTRACT}", "results-part": f"analyze {ANALYZE}", "verdicts-part": f"judge {JUDGE}"}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with runs_folder() as where:
        with tarfile.open(ARCHIVE) as file:
            # Debian 12's Python 3.11.2 knows no filters; the archive is our own.
            file.extractall(where, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        yield where


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return hub_cache(tmp_path_factory.mktemp("home"))


def test_they_are_whole_and_counted(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    for name in WHOLE:
        assert cli.main(["verify", name]) == 0
        assert cli.main(["status", name]) == 0
    capsys.readouterr()
    for name in PARTS:
        assert cli.main(["status", name, "--json"]) == 1
        (found,) = json.loads(capsys.readouterr().out)["runs"]
        assert found["state"] == "stopped"
        assert 0 < found["done"] < found["shards"]


@pytest.mark.slow
def test_a_store_is_continued(folder: Path, environment) -> None:
    """With its settings, and the recorded commit of its model; all of it is computed anew beside it."""
    before = bytes_of(folder / "store.zarr")
    (folder / "more.txt").write_text("a blue circle left of a red square\nthe sky is green\n")
    anew = EXTRACT.replace("corpus.txt", "corpus.txt more.txt")
    lens(f"extract {anew} --out anew.zarr", folder, environment)
    lens("extract --add store.zarr --corpus more.txt --out more.zarr --workers 1 --device cpu", folder, environment)
    assert bytes_of(folder / "store.zarr") == before
    more, anew_store = (EmbeddingStore.open(folder / name) for name in ("more.zarr", "anew.zarr"))
    assert more.row_table().equals(anew_store.row_table())
    assert more.attrs["revision"] == COMMIT
    for layer in more.layers:
        found, expected = (
            decode_unit(one.read_layer(layer), one.encoding, one.outlier_dims(layer)) for one in (more, anew_store)
        )
        # Not their product: older versions did not correct the lengths of rows.
        assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.995
    assert cli.main(["verify", str(more.path)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_an_interrupted_one_is_completed(folder: Path, environment, part: str) -> None:
    before, run_id = bytes_of(folder / part), RunFolder.open(folder / part).run_id
    lens(f"{PARTS[part]} --out {part}", folder, environment)
    run = RunFolder.open(folder / part)
    assert run.run_id == run_id
    assert run.is_complete()
    assert cli.main(["verify", str(run.path)]) == 0
    after = bytes_of(folder / part)
    assert {name: after[name] for name in before} == before
    whole = bytes_of(folder / {"part.zarr": "store.zarr"}.get(part, part.removesuffix("-part")))
    assert after.keys() == whole.keys()
    if part == "verdicts-part":
        assert after == whole
    elif part == "part.zarr":
        ours, theirs = EmbeddingStore.open(folder / part), EmbeddingStore.open(folder / "store.zarr")
        assert ours.layout.outlier_count == 8  # new stores of this width have 6
        for layer in (1, 4):  # computed on another processor, the last bits may differ
            a, b = (
                decode_unit(store.read_layer(layer).torch(), store.layout.encoding, store.outlier_dims(layer))
                for store in (ours, theirs)
            )
            assert torch.nn.functional.cosine_similarity(a, b).min() > 0.999
    else:
        ours, theirs = (pq.read_table(folder / name / "results").to_pandas() for name in (part, "results"))
        assert list(ours.columns) == list(theirs.columns)
        same = [a[0] == b[0] for a, b in zip(ours["ids"], theirs["ids"], strict=True)]
        assert np.mean(same) > 0.95


def test_the_report_says_the_same(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    assert cli.main(["report", "verdicts", "--out", "report"]) == 0
    assert (folder / "report/tables/summary.csv").read_bytes() == (folder / "summary.csv").read_bytes()
    results = LensResults.open("results")
    assert results.lenses == ("latent", "logit", "embedding")
    assert len(read_verdicts(RunFolder.open("verdicts"))) == 8 * 2 * 3 + len(
        [line for line in read_verdicts(RunFolder.open("verdicts"))["control"] if line]
    )


def test_its_report_and_the_truth_load_no_torch(folder: Path) -> None:
    for words in ("report verdicts --out light", "judge --results results --patches 2 --workers 1 --out truth"):
        code = "import sys; from launch.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
        command = [sys.executable, "-c", code, *words.split()]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "0 False"


@pytest.mark.slow
def test_what_was_paid_is_not_asked_again(folder: Path, environment) -> None:
    with judge_server() as (server, key):
        lens(f"judge {PAID} --out paid", folder, environment | key)
        assert server.arrivals == []
    lens("judge --results results --judge replay:paid/ledger --patches 2 --workers 1 --out again", folder, environment)
    old, new = (read_verdicts(RunFolder.open(folder / name)) for name in ("paid", "again"))
    assert old[["outcome", "reply"]].equals(new[["outcome", "reply"]])


def test_a_queued_job_is_understood(folder: Path) -> None:
    element = pickle.loads((folder / "element.pkl").read_bytes())
    assert (element.run, element.parts, element.minutes) == (Path("store.zarr"), 2, 60)
    assert element.options.device == "cpu"
    assert element.options == type(element.options)("cpu")
