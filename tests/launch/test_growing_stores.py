"""`lens extract --add` and `lens merge` as commands: settings of the store, refusals, kills, other commands."""

from __future__ import annotations

import random
import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks import chaos
from launch import analyze, extract, merge, status
from lenscore.contexts import corpus_pieces
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.verification import verify
from tests.conftest import WORDS
from tests.forked_workers import start

ONE = ["--workers", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("corpora"), np.random.default_rng(4)
    files = [folder / "a.txt", folder / "b.txt"]
    for file in files:
        file.write_text("\n".join(" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(100)))
    return files


@pytest.fixture(scope="module")
def stores(tiny_vlm_folder: Path, corpora: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One store of each corpus, and one of both; to be read only."""
    folder = tmp_path_factory.mktemp("stores")
    for name, files in (("a", corpora[:1]), ("b", corpora[1:]), ("ab", corpora)):
        flags = ["--model", str(tiny_vlm_folder), "--corpus", *map(str, files), "--out", str(folder / name), *ONE]
        more = ["--per-token", "5", "--layers", "1,2", "--rows-per-shard", "16", "--seed", "3", "--encoding", "int8"]
        assert extract.main([*flags, *more]) == 0
    return [folder / "a", folder / "b", folder / "ab"]


def adding(stores: list[Path], corpora: list[Path], out: Path, *more: str) -> list[str]:
    return ["--add", str(stores[0]), "--corpus", str(corpora[1]), "--out", str(out), *ONE, *more]


def test_a_store_brings_its_settings_along(stores, corpora, tmp_path, capsys) -> None:
    flags = adding(stores, corpora, tmp_path / "grown")
    assert extract.main([*flags, "--plan"]) == 0
    planned = capsys.readouterr().out
    assert "nothing was submitted" in planned
    assert not (tmp_path / "grown").exists()
    assert extract.main(flags) == 0
    store, whole = EmbeddingStore.open(tmp_path / "grown"), EmbeddingStore.open(stores[2])
    assert store.row_table().equals(whole.row_table())
    config = store.run.config
    assert config["corpus"] == [str(corpora[1])]
    assert config["add"] == [str(stores[0])]
    of_row = ("per_token", "seed", "encoding", "layers", "rows_per_shard", "model")
    assert [config[name] for name in of_row] == [whole.run.config[name] for name in of_row]
    copied = store.run.require_plan().facts["copied_rows"]
    assert 0 < copied < store.rows
    held = EmbeddingStore.open(stores[0]).rows
    assert f"{copied:,} of {store.rows:,} rows, not computed" in planned
    new = store.rows - copied
    assert f"extract: copied: {copied} of {held} rows of a; new: {new} rows of --corpus" in capsys.readouterr().err
    assert extract.main(flags) == 0  # nothing is left to do


def test_a_corpus_that_is_planned_in_pieces(stores, corpora, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(corpus_pieces, "PIECE_BYTES", 400)
    assert extract.main(adding(stores, corpora, tmp_path / "grown", "--workers", "2")) == 0
    store, whole = EmbeddingStore.open(tmp_path / "grown"), EmbeddingStore.open(stores[2])
    assert store.row_table().equals(whole.row_table())


def test_merged_stores_serve_the_other_commands(stores, tiny_vlm_folder, tmp_path, capsys) -> None:
    merged = tmp_path / "merged"
    assert merge.main([*map(str, stores[:2]), "--out", str(merged), *ONE]) == 0
    assert EmbeddingStore.open(merged).row_table().equals(EmbeddingStore.open(stores[2]).row_table())
    assert verify(merged).problems == []
    assert status.main([str(merged)]) == 0
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30), (200, 30, 60)).save(tmp_path / "images" / "red.png")
    flags = ["--model", str(tiny_vlm_folder), "--images", str(tmp_path / "images"), *ONE]
    for name, store in (("of_merged", merged), ("of_whole", stores[2])):
        assert analyze.main([*flags, "--store", str(store), "--out", str(tmp_path / name), "--lenses", "latent"]) == 0
    ours, theirs = (LensResults.open(tmp_path / name).results().to_pandas() for name in ("of_merged", "of_whole"))
    assert len(ours) == len(theirs) > 0
    same = [a[0] == b[0] for a, b in zip(ours["ids"], theirs["ids"], strict=True)]
    assert np.mean(same) > 0.8  # of two stores whose rows are the same but for rounding


def test_settings_from_a_file_and_to_a_file(stores, corpora, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        extract.main(adding(stores, corpora, tmp_path / "grown", "--print-config"))
    settings = yaml.safe_load(capsys.readouterr().out)
    assert (settings["per_token"], settings["add"], settings["trust_remote_code"]) == (5, [str(stores[0])], False)
    short = {"add": [str(stores[0])], "corpus": [str(corpora[1])], "out": str(tmp_path / "grown")}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(short))
    with pytest.raises(SystemExit):
        extract.main(["--config", str(tmp_path / "short.yaml"), "--print-config", *ONE])
    assert yaml.safe_load(capsys.readouterr().out) == settings


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--add", "nowhere", "--corpus", "{corpus}"], "nowhere"),
        (
            ["--add", "{a}", "--corpus", "{corpus}", "--per-token", "20"],
            "--per-token: found 20, but {a} was made with 5;",
        ),
        (["--add", "{a}", "--corpus", "nothing.txt"], "--corpus nothing.txt: no such file or folder"),
        (["--add", "{a}", "--layers", "9"], "layers 0 to 3"),
        (["--add", "{a}"], "--add {a}: nothing to add; give --corpus, --layers that it lacks, or another store"),
        (["--add", "{a}", "--layers", "2,1"], "--add {a}: nothing to add;"),
        (
            ["--add", "{a}", "--corpus", "{corpus}", "--out", "{a}"],
            "--out {a}: is a store to go on from, which is never changed;",
        ),
        (["--corpus", "{corpus}"], "--model is missing"),
        (["--add"], "--model, --corpus are missing"),
    ],
)
def test_extract_refuses_in_one_line(stores, corpora, tmp_path, capsys, flags, message) -> None:
    names = {"a": stores[0], "corpus": corpora[1]}
    words = [flag.format(**names) for flag in flags]
    out = [] if "--out" in words else ["--out", str(tmp_path / "grown")]
    assert extract.main([*words, *out, *ONE]) == 2
    _one_line(capsys.readouterr().err, message.format(**names))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{a}"], "expected two stores or more"),
        ([], "expected two stores or more"),
        (["{a}", "{a}"], "{a}: given twice, or a copy of another store"),
        (["{a}", "{b}", "--out", "{b}"], "--out {b}: is a store to go on from, which is never changed;"),
        (["{a}", "{corpus}"], "{corpus}"),
        (["{a}", "{b}", "--model", "/nowhere"], "--model /nowhere: no such model folder"),
        (["{a}", "{b}", "--rows-per-shard", "1500"], "--rows-per-shard: found 1500"),
    ],
)
def test_merge_refuses_in_one_line(stores, corpora, tmp_path, capsys, words, message) -> None:
    names = {"a": stores[0], "b": stores[1], "corpus": corpora[1]}
    out = [] if "--out" in words else ["--out", str(tmp_path / "grown")]
    assert merge.main([word.format(**names) for word in words] + [*out, *ONE]) == 2
    told = capsys.readouterr().err
    _one_line(told, message.format(**names))
    assert "--add" not in told


def test_merge_is_called_merge(stores, tmp_path, monkeypatch, capsys) -> None:
    words = [*map(str, stores[:2]), "--out", str(tmp_path / "merged"), *ONE]
    assert merge.main([*words, "--plan"]) == 0
    assert capsys.readouterr().out.startswith("merge ")
    monkeypatch.setattr("launch.stages.start_workers", lambda *_: [])  # as if all had been killed
    assert merge.main(words) == 1
    told = capsys.readouterr().err
    assert f"merge: {RunFolder.open(tmp_path / 'merged').require_plan().shard_count} of " in told
    assert "extract" not in told


def _one_line(err: str, message: str) -> None:
    lines = [line for line in err.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert err.rstrip().endswith(lines[0])
    assert message in lines[0]
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["extract", "merge"])
def test_kills_lose_nothing(stores, corpora, tmp_path, monkeypatch, verb) -> None:
    monkeypatch.setattr(chaos, "start_command", partial(start, start_new_session=True, stderr=subprocess.DEVNULL))
    flags = {"extract": adding(stores, corpora, tmp_path)[:4], "merge": list(map(str, stores[:2]))}[verb]
    flags += ["--rows-per-shard", "4", "--workers", "2", "--device", "cpu"]
    main = {"extract": extract.main, "merge": merge.main}[verb]
    assert main([*flags, "--out", str(tmp_path / "undisturbed")]) == 0
    before = shutil.copytree(stores[0], tmp_path / "before")
    outcome = chaos.inject_faults(verb, flags, tmp_path / "undisturbed", tmp_path / "killed", 5, random.Random(0))
    assert outcome.faults.total() == 5
    assert outcome.completions >= 1
    assert outcome.differing == []
    assert chaos.differences(stores[0], before) == []
