"""Datasets of a Hub: a real HTTP server on this machine, real datasets and huggingface_hub.

What it serves is made here after the interface of the Hub; no real Hub was asked.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fake_hub import FakeHub, fake_hub
from tests.script_process import ScriptProcess

pytest.importorskip("datasets")

HOUSE = Path(__file__).parents[3]
READ = """
import json, sys
from itertools import islice
from lenscore.contexts.corpus import corpus_files, corpus_identity, read_corpus
files = corpus_files(sys.argv[2:])
print(json.dumps([list(islice(read_corpus(files), int(sys.argv[1]))), corpus_identity(files)]))
"""
EXTRACT = """
import sys
from launch import extract
from lenscore.contexts import corpus_pieces
corpus_pieces.PIECE_BYTES = int(sys.argv[1])
code = extract.main(sys.argv[2:])
if code:
    raise SystemError(f"exit code {code}")
"""
FAILING_CARD = """
import huggingface_hub, io
from unittest.mock import patch
from lenscore.contexts.corpus import corpus_files
with patch.object(huggingface_hub, "hf_hub_download", side_effect=ConnectionError("cut off")):
    corpus_files(["hf:cards/failing"])
"""
CARD = """---
license: cc-by-4.0
configs:
- config_name: en
  data_files:
  - split: train
    path: en/train-*.parquet
  - split: validation
    path: en/validation.parquet
- config_name: de
  data_files: de/*.parquet
---
A dataset.
"""


def parquet(**columns: list) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.table(columns), data)
    return data.getvalue()


TEXTS = {
    "README.md": CARD.encode(),
    "en/train-0.parquet": parquet(id=[1, 2], text=["a red dog", "a blue cat"]),
    "en/train-1.parquet": parquet(id=[3], text=["the green house"]),
    "en/validation.parquet": parquet(id=[4], text=["small tree"]),
    "de/all.parquet": parquet(id=[5], satz=["ein Hund"]),
}
PLAIN = {"train.jsonl": b'{"text": "one"}\n{"text": "two"}\n', "test.jsonl": b'{"text": "three"}\n'}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        hub.repositories |= {"datasets/me/texts": dict(TEXTS), "datasets/me/plain": dict(PLAIN)}
        yield hub


def process(hub: FakeHub, folder: Path, offline: bool = False) -> ScriptProcess:
    environment = os.environ | {
        "PYTHONPATH": str(HOUSE),
        "HF_ENDPOINT": hub.address,
        "HF_HUB_OFFLINE": str(int(offline)),
        "HF_HOME": str(folder / "home"),
        "LENSCORE_CACHE": str(folder / "cache"),
        "HF_TOKEN": "hf_none",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    return ScriptProcess(environment)


@pytest.mark.slow
def test_a_dataset_is_read_at_one_commit_and_no_more_of_it_than_needed(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.commit_of("datasets/me/texts")
    with process(hub, tmp_path) as online, process(hub, tmp_path, offline=True) as offline:
        texts, identity = json.loads(online.run(READ, 1, "hf:me/texts:en"))
        assert texts == ["a red dog"]
        assert [path for path in hub.downloaded if path.endswith(".parquet")] == ["en/train-0.parquet"]
        names = ["en/train-0.parquet", "en/train-1.parquet"]
        checksums = b"".join(hashlib.sha256(TEXTS[name]).digest() for name in names)
        about = {"revision": commit, "split": "train", "licence": "cc-by-4.0"}
        assert identity == {
            "files": [f"hf://datasets/me/texts@{commit}/{name}" for name in names],
            "sha256": hashlib.sha256(checksums).hexdigest(),
            "named": [{"corpus": "hf:me/texts:en", **about}],
        }
        whole = ["a red dog", "a blue cat", "the green house"]
        assert json.loads(online.run(READ, 9, "hf:me/texts:en"))[0] == whole
        assert json.loads(online.run(READ, 9, "hf:me/texts:en:validation", "hf:me/plain::test"))[0] == [
            "small tree",
            "three",
        ]
        assert json.loads(online.run(READ, 9, "hf:me/texts:de::satz"))[0] == ["ein Hund"]
        assert len(set(hub.downloaded)) == len(hub.downloaded)

        hub.move_main("datasets/me/texts", {**TEXTS, "en/train-1.parquet": parquet(text=["another house"])})
        assert json.loads(online.run(READ, 9, "hf:me/texts:en"))[0] == [*whole[:2], "another house"]
        for script in (online, offline):
            assert json.loads(script.run(READ, 9, f"hf:me/texts@{commit}:en"))[0] == whole
        hub.revisions["datasets/me/texts"]["v1"] = TEXTS
        assert json.loads(online.run(READ, 9, "hf:me/texts@v1:en"))[0] == whole

        for corpus, message in (
            ("hf:me/none", "no such dataset on the Hub"),
            ("hf:me/texts@v2:en", "no revision 'v2'"),
            ("hf:me/texts", "pick one among the available configs: ['en', 'de']"),
            ("hf:me/texts:fr", "BuilderConfig 'fr' not found. Available: ['en', 'de']"),
            ("hf:me/texts:en:test", "no split 'test'; expected train or validation"),
            ("hf:me/texts:de", "no column 'text' or 'sentence' or 'caption' or 'phrase'; it has 'id', 'satz'"),
        ):
            said = online.run(READ, 9, corpus, fails=True)
            assert "InputError: " in said
            assert message in said
        assert "the Hub is not reached" in offline.run(READ, 9, "hf:me/texts:en", fails=True)


def process_reads(hub: FakeHub, folder: Path, corpus: str) -> None:
    with process(hub, folder) as script:
        script.run(READ, 9, corpus)


@pytest.mark.slow
def test_files_that_are_kept_in_git_are_not_fetched_for_the_identity(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["datasets/me/many"] = {f"train-{i}.jsonl": b'{"text": "text %d"}\n' % i for i in range(4)}
    with process(hub, tmp_path) as script:
        assert json.loads(script.run(READ, 1, "hf:me/many"))[0] == ["text 0"]
        assert [path for path in hub.downloaded if path.endswith(".jsonl")] == ["train-0.jsonl"]


@pytest.mark.slow
def test_what_cannot_be_read_or_is_not_what_the_hub_lists_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["datasets/me/whole"] = {"train.parquet": parquet(text=["a", "b"])}
    hub.repositories["datasets/me/packed"] = {"train.parquet": parquet(text=["a"])}
    hub.repositories["datasets/me/scripted"] = {"scripted.py": b"", "train.parquet": parquet(text=["a"])}
    hub.repositories["datasets/me/empty"] = {"README.md": b"nothing"}
    hub.repositories["datasets/me/arrow"] = {"train.arrow": b"arrow"}
    hub.wrong_checksums["train.parquet"] = "0" * 64
    with process(hub, tmp_path) as script:
        for _ in range(2):  # the wrong file does not stay in the cache
            said = script.run(READ, 9, "hf:me/packed", fails=True)
            assert "downloaded with sha256" in said
            assert "but the Hub lists 000000000000...; it was removed" in said
        hub.wrong_checksums.clear()
        for corpus, path in (("hf:me/whole", "train.parquet"), ("hf:me/plain", "train.jsonl")):
            process_reads(hub, tmp_path, corpus)
            (kept,) = (tmp_path / "home").glob(f"hub/datasets--{corpus[3:].replace('/', '--')}/snapshots/*/{path}")
            kept.write_bytes(b'{"text": "another"}')  # as if the command had been killed before it compared
            said = script.run(READ, 9, corpus, fails=True)
            assert f"/{path}: downloaded with " in said
            assert not kept.exists()
        for corpus, message in (
            ("hf:me/scripted", "scripts are no longer supported"),
            ("hf:me/empty", "the datasets library cannot open it"),
            ("hf:me/arrow", "cannot read train.arrow; expected .txt"),
        ):
            assert message in script.run(READ, 9, corpus, fails=True)


@pytest.mark.slow
def test_an_extract_run_stays_at_the_commit_that_it_began_with(
    hub: FakeHub, tmp_path: Path, tiny_llm_folder: Path
) -> None:
    flags = ["--model", tiny_llm_folder, "--corpus", "hf:me/texts:en", "hf:me/plain=0.5", "--workers", 1, "--out"]
    commit, store = hub.commit_of("datasets/me/texts"), tmp_path / "store.zarr"
    with process(hub, tmp_path) as online, process(hub, tmp_path, offline=True) as offline:
        online.run(EXTRACT, 2**30, *flags, store)
        run = json.loads((store / "run.json").read_text())
        assert run["config"]["corpus"] == ["hf:me/texts:en", "hf:me/plain=0.5"]
        assert run["inputs"]["corpus"]["named"][0]["revision"] == commit
        plan = (store / "plan.json").read_bytes()

        hub.move_main("datasets/me/texts", {**TEXTS, "en/train-0.parquet": parquet(text=["sky"])})
        (store / "plan.json").unlink()  # as if the command had been killed before
        online.run(EXTRACT, 2**30, *flags, store)
        assert (store / "plan.json").read_bytes() == plan
        (store / "plan.json").unlink()
        offline.run(EXTRACT, 2**30, *flags, store)  # all of it is on this machine
        assert (store / "plan.json").read_bytes() == plan
        (store / "plan.json").unlink()
        online.run(EXTRACT, 1, *flags, store)  # by pieces, each of them a file
        assert (store / "plan.json").read_bytes() == plan
        online.run(EXTRACT, 2**30, *flags, tmp_path / "later.zarr")
        assert (tmp_path / "later.zarr" / "plan.json").read_bytes() != plan


def card(content: str) -> bytes:
    return f"---\n{content}\n---\n".encode()


@pytest.mark.slow
def test_cards_that_ask_for_another_reading_or_hold_anything_are_one_line(hub: FakeHub, tmp_path: Path) -> None:
    table, lines = {"a.csv": b"text\none\ntwo\n"}, {"a.jsonl": b'{"text": "one"}\n{"text": "two"}\n'}
    configured = "configs: [{config_name: default, data_files: %s, %s}]"
    refused = {
        "separated": (table, configured % ("a.csv", 'sep: "|"'), "files with sep = '|'"),
        "delimited": (table, configured % ("a.csv", 'delimiter: "|"'), "files with sep = '|'"),
        "named": (table, configured % ("a.csv", "column_names: [text]"), "files with names = \"['text']\""),
        "skipped": (table, configured % ("a.csv", "skiprows: 1"), "files with skiprows = '1'"),
        "latin": (table, configured % ("a.csv", "encoding: latin-1"), "files with encoding = 'latin-1'"),
        "within": (lines, configured % ("a.jsonl", "field: data"), "files with field = 'data'"),
        "whole": ({"a.txt": b"a"}, configured % ("a.txt", "sample_by: document"), "files with sample_by = 'document'"),
        "commas": ({"a.tsv": b"text\na"}, configured % ("a.tsv", 'sep: ","'), "files with sep = ','"),
        "broken": (table, "license: [mit", "the datasets library cannot open it"),
        "numbers": (table, "configs: [3]", "the datasets library cannot open it"),
        "text": (table, "configs: 3", "the datasets library cannot open it"),
        "infos": (table, "dataset_info: {splits: 3}", "the datasets library cannot open it"),
        "features": (table, "dataset_info: {features: 3}", "the datasets library cannot open it"),
    }
    read = {
        "tabs": ({"a.tsv": b"text\none\ntwo\n"}, "license:", "not stated"),
        "plain": (table, configured % ("a.csv", "encoding: UTF-8") + "\nlicense: {name: mit}", "not stated"),
        "several": (lines, "license: [mit, cc0-1.0]", "mit, cc0-1.0"),
        "none": (lines, "", "not stated"),
    }
    for name, (files, content, _) in (refused | read).items():
        hub.repositories[f"datasets/cards/{name}"] = {**files, **({"README.md": card(content)} if content else {})}
    with process(hub, tmp_path) as script:
        for name, (_, _, message) in refused.items():
            said = script.run(READ, 9, f"hf:cards/{name}", fails=True)
            assert said.startswith("storage_layouts.errors.InputError: --corpus hf:cards/"), said
            assert message in said
        for name, (_, _, licence) in read.items():
            texts, identity = json.loads(script.run(READ, 9, f"hf:cards/{name}"))
            assert texts == ["one", "two"]
            assert identity["named"][0]["licence"] == licence
        hub.repositories["datasets/cards/failing"] = {**lines, "README.md": card("license: mit")}
        assert "its card (README.md) cannot be read" in script.run(FAILING_CARD, 9, "hf:cards/failing", fails=True)
        assert json.loads(script.run(READ, 9, "hf:cards/failing"))[1]["named"][0]["licence"] == "mit"
