"""`lens sharpen` from a run of the shapes world to tables, as a user types it; mistakes are one line."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs.analyze_job import AnalyzeJob
from jobs.extract_job import ExtractJob
from jobs.sharpen_job import SharpenJob
from jobs.work import work
from launch import cli
from lenscore import shapes
from lenscore.contexts.corpus import read_corpus
from lenscore.judging.candidates import CandidateWords
from lenscore.judging.judges.shapes_truth import TruthJudge, fitting_words
from lenscore.judging.patches import readable_images, sample_patches
from lenscore.shapes.grammar import PROMPT
from lenscore.sharpening.search_names import CONTROLS, SOURCES
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from tests.forked_workers import start
from tests.jobs.test_analyze import complete
from tests.launch.test_local import wait_for
from tests.synthetic_run import make_results

CORPUS = shapes.corpus_path()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> LensResults:
    """Six pictures through the model of the shapes world, and a small store."""
    folder = tmp_path_factory.mktemp("shapes")
    shapes.write_images(folder / "images", "test", 6)
    model, store = str(shapes.model_path()), folder / "s.zarr"
    complete(ExtractJob(model, (CORPUS,), store, layers="1,4", limit=300, per_token=4))
    settings = {"layers": "0,2", "prompt": PROMPT, "self_test": False, "store": store}
    complete(AnalyzeJob(model, folder / "images", folder / "run", **settings))
    return LensResults.open(folder / "run")


def command(run: LensResults, *flags: object) -> list[str]:
    return ["sharpen", "--results", str(run.path), *map(str, flags)]


def in_this_process(job: Any, run: RunFolder, *_: object) -> list[Path]:
    """In the place of `start_workers`: a worker whose start takes no time."""
    report = work(run, lambda: job.open_worker(run, "cpu"), "test", ready=job.ready(run))
    if report.refused:
        raise InputError(report.refused)
    return []


def sharpen(run: LensResults, *flags: object) -> int:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("launch.stages.start_workers", in_this_process)
        return cli.main(command(run, *flags))


@pytest.fixture(scope="module")
def made(run, tmp_path_factory) -> Path:
    """The same command, a by one worker in this process, b by two of their own."""
    out = tmp_path_factory.mktemp("out")
    flags = ["--truth", "shapes", "--patches", 12, "--rounds", 2, "--sentences", 3, "--max-new-tokens", 4]
    assert sharpen(run, "--corpus", CORPUS, *flags, "--out", out / "a") == 0
    assert cli.main(command(run, "--corpus", CORPUS, *flags, "--workers", 2, "--out", out / "b")) == 0
    return out


def test_the_store_alone_is_what_the_run_and_the_judge_say(run, made):
    rounds = pd.read_csv(made / "a" / "rounds.csv")
    start = rounds[rounds["round"] == 0].set_index("layer")
    images, judge = readable_images(run.images(), run.geometry()), TruthJudge("truth")
    of = {image.image_id: image for image in images}
    sample = sample_patches(images, 12, 0, judge.qualifying)
    words, patches = CandidateWords(run), pd.read_csv(made / "a" / "patches.csv")
    key = ["image", "view", "row", "col", "layer"]
    mine = patches[patches["round"] == 0].set_index(key)["words"]
    for layer in run.layers:
        right = []
        for place in sample:
            lines = run.results(layer=layer, lens="latent", image_ids=[place.image_id]).to_pylist()
            (line,) = (one for one in lines if (one["view"], one["row"], one["col"]) == place.key[1:])
            found = words.of("latent", np.array(line["ids"], np.int32))
            image = of[place.image_id]
            assert mine[image.path, place.view, place.row, place.col, layer].replace(" | ", " ").split() == list(found)
            right.append(bool(fitting_words(found, judge.right_words(image, place))))
        assert start.loc[str(layer), "rate"] == pytest.approx(np.mean(right), abs=1e-6)
    assert start.loc["all", "rate"] > start.loc["all", "rate_by_chance"]


def test_controls_have_exactly_as_many_sentences(made):
    rounds = pd.read_csv(made / "a" / "rounds.csv")
    last = rounds[(rounds["layer"] == "all") & (rounds["round"] == 2)]
    sentences = pd.read_csv(made / "a" / "sentences.csv")
    store = set(
        pd.read_csv(made / "a" / "patches.csv")
        .query("source == 'store'")["sentence"]
        .str.replace(r"[\[\]]", "", regex=True)
    )
    for source, of in last.groupby("source"):
        assert set(of["kind"]) == {"found", *CONTROLS} - ({"other-patch"} if source == "corpus" else set())
        found = of.set_index("kind").loc["found"]
        for line in of.to_dict("records"):
            mine = sentences[(sentences["source"] == source) & (sentences["kind"] == line["kind"])]["sentence"]
            assert not mine.duplicated().any()
            assert len(mine) == line["sentences"]
            assert store.isdisjoint(mine)
            if line["kind"] == "random-rows":
                assert line["rows"] == found["rows"]
            else:
                assert line["sentences"] == found["sentences"] > 30
    corpus = set(CORPUS.read_text().splitlines())
    assert set(sentences[sentences["source"] == "corpus"]["sentence"]) <= corpus
    assert corpus.isdisjoint(
        sentences[(sentences["source"] == "generated") & (sentences["kind"] == "found")]["sentence"]
    )


def test_new_rows_only_come_nearer(made):
    patches = pd.read_csv(made / "a" / "patches.csv")
    key = ["image", "view", "row", "col", "layer"]
    before = patches[patches["round"] == 0].set_index(key)["cosine"]
    for _, after in patches[patches["round"] == 2].groupby(["source", "kind"]):
        after = after.set_index(key)
        gain = after["cosine"] - before.loc[after.index]
        assert ((gain > 0) == (after["new"] == 1)).all()
        assert (gain >= 0).all()
    rounds, differences = pd.read_csv(made / "a" / "rounds.csv"), pd.read_csv(made / "a" / "differences.csv")
    means = rounds[rounds["layer"] == "all"].set_index(["source", "kind", "round"])
    for line in differences.to_dict("records"):
        at = (line["source"], line["against"], line["round"])
        other = means.loc["store", "found", 0] if line["against"] == "the store alone" else means.loc[at]
        for measure in ("rate", "first", "specific", "exact", "cosine"):
            exceeding = means.loc[line["source"], "found", line["round"]][measure] - other[measure]
            assert line[measure] == pytest.approx(exceeding, abs=2e-6)
            assert line[f"{measure}_low"] <= line[measure] + 1e-6
            assert line[f"{measure}_high"] >= line[measure] - 1e-6


LOGS = {"attempts", "heartbeats", "claims", "run.json"}
"""What differs from command to command."""


def contents(out: Path) -> dict[str, bytes]:
    files = {path.relative_to(out): path for path in out.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in files.items() if name.parts[0] not in LOGS}


def test_the_same_command_gives_the_same_bytes_by_any_workers(made):
    files = contents(made / "a")
    tables = {"differences.csv", "patches.csv", "rounds.csv", "sentences.csv"}
    assert {*tables, "summary.txt", *(f"found-{source}.jsonl" for source in SOURCES)} < files.keys()
    # The store alone, then two rounds: a corpus has no sentences for chosen pairs.
    assert len([name for name in files if name.startswith("receipts/")]) == 1 + 2 * (5 + 4 + 5)
    assert contents(made / "b") == files


@pytest.mark.slow
def test_a_killed_command_goes_on_with_what_is_done(run, tmp_path):
    flags = command(run, "--sources", "templates,generated", "--controls", "other-patch,random-words", "--rounds", 2)
    flags += ["--truth", "shapes", "--patches", "12", "--max-new-tokens", "4", "--workers", "2", "--out"]
    started = [sys.executable, "-m", "launch.cli", *flags, str(tmp_path / "killed")]
    begun, receipts = (tmp_path / "killed" / name for name in ("run.json", "receipts"))
    kept: dict[str, int] = {}
    kills = (0, 1, 4, 9)
    for done in kills:
        command_line = start(started, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda so_far=done: begun.exists() and len(list(receipts.glob("*"))) >= so_far)
        os.killpg(command_line.pid, signal.SIGKILL)
        command_line.wait()
        found = {path.name: path.stat().st_ino for path in receipts.glob("*.json")}
        assert kept.items() <= found.items()
        kept = found
    assert len(kept) < 13
    assert cli.main([*flags, str(tmp_path / "killed")]) == 0
    assert kept.items() <= {path.name: path.stat().st_ino for path in receipts.glob("*.json")}.items()
    events = RunFolder.open(tmp_path / "killed").attempts_log()
    began = Counter(event["shard"] for event in events if event["event"] == "started")
    assert began.keys() == set(range(13))
    assert began.total() <= 13 + 2 * len(kills)  # each of two workers loses the search in hand
    assert sharpen(run, *flags[3:], tmp_path / "whole") == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_the_sentences_of_found_words_alone_are_a_corpus(made):
    sentences = pd.read_csv(made / "a" / "sentences.csv")
    for source in SOURCES:
        found = sentences[(sentences["source"] == source) & (sentences["kind"] == "found")]["sentence"].tolist()
        assert list(read_corpus([made / "a" / f"found-{source}.jsonl"])) == found
        assert 30 < len(found) < len(sentences)


def test_a_folder_with_results_of_other_settings_is_refused_and_stays(capsys, run, made, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(made / "a", out)
    before = contents(out)
    flags = ["--sources", "templates", "--controls", "none", "--patches", 1, "--rounds", 1]
    assert sharpen(run, *flags, "--out", out) == 2
    assert "this folder belongs to another run; choose another folder or the same settings" in capsys.readouterr().err
    assert contents(out) == before


def test_the_inputs_are_recorded(run, made, tmp_path):
    record = RunFolder.open(made / "a").inputs
    assert record["results"] == {"path": str(run.path.resolve()), "run_id": run.run.run_id}
    assert record["store"]["run_id"] == run.store().run.run_id
    assert record["model"] == run.run.inputs["model"]
    digest = hashlib.sha256(CORPUS.read_bytes()).digest()
    assert record["corpus"]["files"] == [str(CORPUS.resolve())]
    assert record["corpus"]["sha256"] == hashlib.sha256(digest).hexdigest()
    assert not {"truth", "templates"} & record.keys()

    templates = tmp_path / "templates.txt"
    templates.write_text("{0} {1}")
    flags = ["--sources", "templates", "--templates", templates, "--controls", "none", "--patches", 1, "--rounds", 1]
    assert sharpen(run, *flags, "--out", tmp_path / "out") == 0
    record = RunFolder.open(tmp_path / "out").inputs
    assert "corpus" not in record
    assert record["templates"]["sha256"] == hashlib.sha256(b"{0} {1}").hexdigest()


def test_without_truth_and_corpus(capsys, run, tmp_path):
    (tmp_path / "templates.txt").write_text("{0}, {1}\n\n{1} and {0} {1}\n")
    flags = ["--sources", "templates", "--templates", tmp_path / "templates.txt", "--patches", 5, "--rounds", 1]
    assert sharpen(run, *flags, "--out", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "the store alone: cosine 0." in out
    assert "random sentences" not in out
    assert "more than as many sentences with random words by: cosine " in out
    sentences = pd.read_csv(tmp_path / "out" / "sentences.csv")
    assert set(sentences["kind"]) == {"found", "other-patch", "random-words"}
    assert sentences["sentence"].str.fullmatch(r"\S+, \S+|(\S+) and \S+ \1").all()
    assert "rate" not in pd.read_csv(tmp_path / "out" / "rounds.csv").columns

    # A table that is missing is written again, and what is printed stays the same.
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "sentences.csv").unlink()
    assert sharpen(run, *flags, "--out", tmp_path / "out") == 0
    assert (capsys.readouterr().out, contents(tmp_path / "out")) == (out, before)


def test_a_corpus_that_is_too_small_is_told(capsys, run, tmp_path):
    (tmp_path / "few.txt").write_text("a red circle\na blue star\nan orange key in the box\n")
    flags = ["--sources", "templates", "--controls", "random-sentences,random-rows", "--corpus", tmp_path / "few.txt"]
    assert sharpen(run, *flags, "--patches", 1, "--rounds", 1, "--sentences", 40, "--out", tmp_path / "out") == 0
    out = capsys.readouterr().out
    rounds = pd.read_csv(tmp_path / "out" / "rounds.csv")
    of = rounds[rounds["layer"] == "all"].set_index("kind")
    fewer = of["sentences"].iloc[1] - 3
    assert of.loc["random-sentences", "sentences"] == 3
    assert f"as many random sentences of the corpus ({fewer} fewer: the corpus has no more) by: cosine " in out
    assert "nan" not in out


def test_what_is_left_out_of_the_corpus_is_told(capsys, run, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.csv").write_text('text\na red circle in the box\n \na blue star at the top\n""\n')
    (folder / "b.txt").write_text("")
    (folder / "c.md").write_text("# no corpus")
    flags = [
        "--sources",
        "templates",
        "--controls",
        "random-sentences",
        "--patches",
        1,
        "--rounds",
        1,
        "--sentences",
        1,
    ]
    corpus = ["--corpus", folder, f"{CORPUS}=0.01"]
    assert sharpen(run, *flags, *corpus, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().err
    assert "sharpen: files of other kinds, not taken: 1 (.md 1)" in said
    assert "sharpen: rows without a text, left out: 2 (a.csv 2)" in said
    assert "sharpen: files without a text: 1 (b.txt 1)" in said
    assert "sharpen: sentences left out by the share of their corpus: 15," in said


def test_flags_without_effect_are_told(capsys, run, tmp_path):
    (tmp_path / "t.txt").write_text("{0} {1}")
    few = ["--patches", 1, "--rounds", 1, "--sentences", 1]
    flags = ["--sources", "templates", "--corpus", CORPUS, "--templates", tmp_path / "t.txt"]
    assert sharpen(run, *flags, "--controls", "none", *few, "--out", tmp_path / "1") == 0
    assert "sharpen: --corpus had no effect: no source and no control takes" in capsys.readouterr().err
    assert sharpen(run, *flags, "--controls", "random-rows", *few, "--out", tmp_path / "2") == 0
    assert "no effect" not in capsys.readouterr().err
    flags[1] = "corpus"
    assert sharpen(run, *flags, "--controls", "none", *few, "--out", tmp_path / "3") == 0
    assert "sharpen: --templates had no effect: no source takes templates" in capsys.readouterr().err
    assert (
        sharpen(run, "--sources", "templates", "--column", "text", "--controls", "none", *few, "--out", tmp_path / "4")
        == 0
    )
    assert "sharpen: --column had no effect" in capsys.readouterr().err


def test_random_rows_are_drawn_until_they_are_as_many(run, tmp_path):
    """Of a corpus of short sentences, many times as many sentences as those with found words."""
    words = sorted({word for line in CORPUS.read_text().splitlines()[:300] for word in line.split()})
    (tmp_path / "short.txt").write_text("\n".join(f"{a} {b}" for a in words for b in words[:20]))
    (tmp_path / "long.txt").write_text("{0} " + "and with it there is one more thing " * 4 + "{1}\n")
    flags = ["--sources", "templates", "--templates", tmp_path / "long.txt", "--controls", "random-rows"]
    flags += ["--corpus", tmp_path / "short.txt", "--patches", 2, "--rounds", 2, "--sentences", 2]
    assert sharpen(run, *flags, "--out", tmp_path / "out") == 0
    rounds = pd.read_csv(tmp_path / "out" / "rounds.csv")
    of = rounds[rounds["layer"] == "all"].set_index(["kind", "round"])
    for number in (1, 2):
        assert of.loc[("random-rows", number), "rows"] == of.loc[("found", number), "rows"]
        assert of.loc[("random-rows", number), "sentences"] > 4 * of.loc[("found", number), "sentences"]
    sentences = pd.read_csv(tmp_path / "out" / "sentences.csv").query("kind == 'random-rows'")["sentence"]
    assert len(sentences) == of.loc[("random-rows", 2), "sentences"]
    assert not sentences.duplicated().any()


def test_the_memory_of_a_worker_counts_the_corpus(run, tmp_path):
    job = SharpenJob(run.path, tmp_path / "out", corpus=(str(CORPUS),), sources="templates", controls="none")
    of_corpus = replace(job, sources="corpus").worker_bytes() or 0
    assert of_corpus - (job.worker_bytes() or 0) == 3 * CORPUS.stat().st_size


def test_mistakes_are_one_line(capsys, run, tmp_path):
    def refused(*flags: object, results: LensResults = run) -> str:
        assert sharpen(results, *flags, "--out", tmp_path / "out") == 2
        (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert not (tmp_path / "out").exists()
        return message

    assert "--sources corpus: expected --corpus with it" in refused("--sources", "corpus")
    assert "--controls random-rows: expected --corpus" in refused("--controls", "random-rows")
    assert "--sources: no 'web'; expected some of templates, corpus, generated" in refused("--sources", "web")
    assert "--rounds: found 0" in refused("--rounds", 0)
    assert "gone.txt: no such file" in refused("--templates", "gone.txt", "--sources", "templates")
    assert "--truth gone.json" in refused("--truth", "gone.json")
    (tmp_path / "t.txt").write_text("a {0}\n")
    assert "found 'a {0}'" in refused("--templates", tmp_path / "t.txt", "--patches", 1)
    other = make_results(tmp_path / "made", images=2, unreadable=False, prompt=PROMPT)
    assert "its model made/vlm: no such model folder" in refused(results=other)
    for source, converted in ((run.path, tmp_path / "files"), (tmp_path / "files", tmp_path / "again")):
        assert cli.main(["convert", str(source), str(converted)]) == 0
        capsys.readouterr()
    assert "names no prompt" in refused(results=LensResults.open(tmp_path / "again"))
    assert cli.main(["intervene", "--results", str(tmp_path / "again"), "--out", str(tmp_path / "i")]) == 2
    assert "again: names no prompt" in capsys.readouterr().err
    assert not (tmp_path / "i").exists()
