"""A planning that several workers share gives the bytes of one process's planning, whatever happens to them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.extract_job import ExtractJob
from jobs.planning_tree import FAN_IN, PlanningTree
from launch import extract, status
from lenscore.contexts import context_table, corpus_pieces
from lenscore.contexts.corpus import corpus_files
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder
from tests.clusters.conftest import slow_workers
from tests.conftest import WORDS


@settings(deadline=None)
@given(st.integers(2, 5000))
def test_every_shard_of_a_tree_becomes_ready_and_is_read_once(pieces):
    tree = PlanningTree(pieces)
    done: set[int] = set()
    read: list[int] = []
    for level in tree.levels:
        assert all(tree.ready(shard, done) for shard in level)
        assert all(len(tree.inputs(shard)) <= FAN_IN for shard in level if shard < tree.shards - 1)
        read += [one for shard in level for one in tree.inputs(shard)]
        done |= set(level)
        assert not tree.ready(tree.texts[-1], done - {tree.root})
    assert len(done) == tree.shards
    assert sorted(read) == sorted([*range(tree.root), *[tree.root] * pieces, *tree.texts])
    assert [tree.place(shard) for shard in (0, tree.root, tree.shards - 1)] == [
        ("piece", 0),
        ("merge", 0),
        ("tables", 0),
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, ...]:
    """Two files of 5,000 bytes and more, with repetitions across pieces and a sentence that is cut."""
    rng = np.random.default_rng(4)
    folder = tmp_path_factory.mktemp("corpus")
    for name in ("a.txt", "b.txt"):
        texts = [" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(300)]
        (folder / name).write_text("\n".join([*texts, " ".join(WORDS * 3), "", *texts[:50]]))
    (folder / "c.csv").write_text("text,n\n,1\na cat,2\n")
    return (folder,)


SETTINGS = {
    "uniform": {"per_token": 3, "layers": "1", "max_tokens": 30},
    "first": {"per_token": 2, "layers": "1", "sampling": "first", "fraction": 0.6, "positions": "from-2", "seed": 3},
    "whole sentences": {"per_token": 2, "layers": "1", "causal": False},
    "a share": {"per_token": 4, "layers": "1", "seed": 1},
}


@pytest.fixture(params=SETTINGS)
def given_settings(request, tiny_llm_folder, corpus):
    named = (f"{corpus[0]}=0.5", "phrases=0.01") if request.param == "a share" else corpus
    return {"model": str(tiny_llm_folder), "corpus": named, "rows_per_shard": 16, **SETTINGS[request.param]}


def planned(given, out, monkeypatch, piece_bytes):
    monkeypatch.setattr(corpus_pieces, "PIECE_BYTES", piece_bytes)
    job = ExtractJob(out=out, **given)
    run = job.open_run()
    job.plan(run, lambda message: None)
    return run


def begun(job):
    """The run of a job, the job that plans it, and its run, of which no part is done."""
    run = job.open_run()
    run.settle()
    planning = job.planning(run)
    assert planning is not None
    own = planning.open_run()
    planning.plan(own, lambda message: None)
    return run, planning, own


def plan_files(run):
    names = ["plan.json", *run.require_plan().files]
    return {name: (run.path / name).read_bytes() for name in names}


@pytest.mark.parametrize("pieces", [2, 40])
def test_the_plan_has_the_bytes_of_one_process(given_settings, corpus, tmp_path, monkeypatch, pieces):
    alone = planned(given_settings, tmp_path / "alone", monkeypatch, 2**30)
    assert not (alone.path / "planning").exists()
    size = sum(map(corpus_pieces.text_bytes, corpus_files(given_settings["corpus"])))
    shared = planned(given_settings, tmp_path / "shared", monkeypatch, size // pieces - 1)
    assert RunFolder.open(shared.path / "planning").require_plan().facts["pieces"] >= pieces
    assert plan_files(shared) == plan_files(alone)
    assert alone.require_plan().facts["notes"]


def test_a_sentence_is_tokenised_at_most_1_3_times(tiny_llm_folder, corpus, tmp_path, monkeypatch):
    tokenised: list[str] = []

    def counted(tokenise, texts, *rest):
        tokenised.extend(texts)
        return tokenise(texts, *rest)

    for name in ("tokenize", "tokenize_with_spans", "character_spans"):
        monkeypatch.setattr(context_table, name, partial(counted, getattr(context_table, name)))
    given = {"model": str(tiny_llm_folder), "corpus": corpus, "layers": "1", "per_token": 3}
    for piece_bytes in (3000, 300):  # few pieces, whose characters are found at once, and many
        tokenised.clear()
        run = planned(given, tmp_path / str(piece_bytes), monkeypatch, piece_bytes)
        facts = run.require_plan().facts
        assert len(tokenised) <= 1.3 * facts["sentences_read"]
        assert len(tokenised) >= 0.5 * facts["sentences_read"]


@pytest.mark.slow
def test_killed_workers_change_no_byte(tiny_llm_folder, corpus, tmp_path, monkeypatch, capsys):
    given = {"model": str(tiny_llm_folder), "corpus": corpus, "layers": "1", "per_token": 4}
    alone = planned(given, tmp_path / "alone", monkeypatch, 2**30)
    monkeypatch.setattr(corpus_pieces, "PIECE_BYTES", 150)
    slow_workers(monkeypatch, seconds=0.05)  # or few are killed before all is done
    out, over, killed = tmp_path / "store", threading.Event(), []

    def kill_now_and_then() -> None:
        while not over.is_set():
            with contextlib.suppress(Exception):
                beats = RunFolder.open(out / "planning").heartbeats()
                workers = [beat["pid"] for beat in beats if beat.get("device") and not beat["dead"]]
                if workers and len(killed) < 5:
                    killed.append(workers[0])
                    os.kill(workers[0], signal.SIGKILL)
            time.sleep(0.3)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    flags = ["--model", str(tiny_llm_folder), "--corpus", *map(str, corpus), "--layers", "1", "--per-token", "4"]
    flags += ["--out", str(out), "--workers", "3", "--rounds", "9", "--stale-after", "3"]
    try:
        code = extract.main(flags)
    finally:
        over.set()
        killer.join()
    assert code == 0
    assert len(killed) >= 3
    assert not (out / "planning").exists()
    assert plan_files(RunFolder.open(out)) == plan_files(alone)


def test_a_refused_corpus_is_one_line_and_a_mended_touch_is_planned_again(
    tiny_llm_folder, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"a cat\n" * 90 + b"\xff\n" + b"the dog\n" * 90)
    monkeypatch.setattr(corpus_pieces, "PIECE_BYTES", 100)
    flags = ["--model", str(tiny_llm_folder), "--corpus", str(path), "--layers", "1", "--workers", "2"]
    assert extract.main([*flags, "--out", str(tmp_path / "bad")]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    assert f"{path}, line 91: not UTF-8 (byte 0xff at column 1)" in said

    done = RunFolder.open(tmp_path / "bad" / "planning").done()
    assert done
    assert extract.main([*flags, "--out", str(tmp_path / "bad")]) == 2
    assert RunFolder.open(tmp_path / "bad" / "planning").done() >= done  # the same command goes on with what is there
    path.write_bytes(b"a cat\n" * 90 + b"the dog\n" * 90)
    assert extract.main([*flags, "--out", str(tmp_path / "bad")]) == 0  # the refused corpus has left the folder free
    out = tmp_path / "store"
    job = ExtractJob(model=str(tiny_llm_folder), corpus=(path,), layers="1", out=out)
    _, planning, own = begun(job)
    worker = planning.open_worker(own, "cpu")
    own.write_receipt(worker.run(own.require_plan().shard(0)))
    assert status.main([str(out)]) == 1
    assert f"planning {out / 'planning'}: stopped, 1 of" in capsys.readouterr().out
    os.utime(path, ns=(1, 1))
    assert extract.main([*flags, "--out", str(out)]) == 2
    assert "changed while it was being planned; repeat the command" in capsys.readouterr().err
    assert extract.main([*flags, "--out", str(out)]) == 0


def test_a_piece_of_a_changed_corpus_that_is_back_is_sampled_again(tiny_llm_folder, tmp_path, monkeypatch):
    path, out = tmp_path / "corpus.txt", tmp_path / "store"
    content = "".join(f"the {a} {b}\n" for a in WORDS for b in WORDS[:6]).encode()
    path.write_bytes(content)
    monkeypatch.setattr(corpus_pieces, "PIECE_BYTES", 500)
    job = ExtractJob(model=str(tiny_llm_folder), corpus=(str(path),), layers="1", out=out)
    run, planning, own = begun(job)
    path.write_bytes(b"a\n" * (len(content) // 2))  # many more sentences in the first piece
    own.write_receipt(planning.open_worker(own, "cpu").run(own.require_plan().shard(0)))
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match="changed while it was being planned; repeat the command"):
        job.plan(run, lambda message: None)
    job.plan(run, lambda message: None)
    alone = planned(
        {"model": str(tiny_llm_folder), "corpus": (str(path),), "layers": "1"}, tmp_path / "b", monkeypatch, 2**30
    )
    assert plan_files(run) == plan_files(alone)


def test_planning_is_estimated_before_it_begins(tiny_llm_folder, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(corpus_pieces, "PIECE_BYTES", 500)
    flags = ["--model", str(tiny_llm_folder), "--corpus", *map(str, corpus), "--out", str(tmp_path / "store")]
    assert extract.main([*flags, "--plan", "--workers", "3"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    pieces = len(corpus_pieces.split_corpus(corpus_files(corpus), 500))
    assert pieces > 20
    assert f"in {pieces} pieces" in printed
    assert "by 3; loading not" in printed
    assert "for each worker on a CPU" in printed
    assert not (tmp_path / "store").exists()
