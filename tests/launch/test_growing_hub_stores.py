"""`lens extract --add` and `lens merge` of what is on the Hub: datasets as corpora, and stores by name.

The Hub is an HTTP server on this machine, see tests/fake_hub.py; no real one was asked.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.chaos import data_files
from launch import cli
from storage_layouts.files import read_json
from tests.conftest import WORDS
from tests.fake_hub import FakeHub, fake_hub
from tests.launch.test_hub_stores import HOUSE, RUN, files_of
from tests.script_process import ScriptProcess

pytest.importorskip("datasets")

ONE = ["--workers", "1", "--device", "cpu"]
FEW = ["--layers", "1,2", "--per-token", "5", "--rows-per-shard", "32", *ONE]


def texts(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    return "\n".join(" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(100)).encode()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        for seed, name in enumerate("abc"):
            hub.repositories[f"datasets/me/{name}"] = {"README.md": b"---\nlicense: mit\n---\n", "a.txt": texts(seed)}
        yield hub


@pytest.fixture
def online(hub: FakeHub, tmp_path: Path) -> Iterator[ScriptProcess]:
    environment = os.environ | {"PYTHONPATH": str(HOUSE), "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "LENSCORE_CACHE": str(tmp_path / "cache")}
    with ScriptProcess(environment | {"HF_TOKEN": "hf_none", "HF_HUB_DISABLE_XET": "1"}) as process:
        yield process


def run(online: ScriptProcess, *words: object) -> None:
    said = online.run(RUN, *words)
    assert said.startswith("0 "), said


def arrays(store: Path) -> dict[str, object]:
    """The bytes of rows, sentences and embeddings; other files name the run."""
    own = ("run.json", "plan.json", "zarr.json", "receipts/")
    return {name: data for name, data in data_files(store).items() if not name.startswith(own)}


def tables(store: Path) -> dict[str, object]:
    return {name: data for name, data in arrays(store).items() if name.endswith(".parquet")}


@pytest.mark.slow
def test_datasets_grow_as_files_do_at_the_commits_that_their_stores_keep(
    hub: FakeHub, online: ScriptProcess, tiny_llm_folder: Path, tmp_path: Path
) -> None:
    commits = {name: hub.commit_of(f"datasets/me/{name}") for name in "abc"}
    record = {name: {"corpus": f"hf:me/{name}", "licence": "mit", "split": "train"} for name in "abc"}
    record = {name: about | {"revision": commits[name]} for name, about in record.items()}
    for name in "ab":
        run(online, "extract", "--model", tiny_llm_folder, "--corpus", f"hf:me/{name}", "--out", tmp_path / name, *FEW)
        (tmp_path / f"{name}.txt").write_bytes(hub.repositories[f"datasets/me/{name}"]["a.txt"])
    pinned = [f"hf:me/{name}@{commits[name]}" for name in "ab"]
    run(online, "extract", "--model", tiny_llm_folder, "--corpus", *pinned, "--out", tmp_path / "whole", *FEW)
    files = ["extract", "--model", str(tiny_llm_folder), "--corpus", str(tmp_path / "a.txt")]
    assert cli.main([*files, "--out", str(tmp_path / "file"), *FEW]) == 0
    files = ["extract", "--add", str(tmp_path / "file"), "--corpus", str(tmp_path / "b.txt")]
    assert cli.main([*files, "--out", str(tmp_path / "files"), *ONE]) == 0

    del hub.repositories["datasets/me/a"]  # nobody asks for the dataset of the store again
    add = ["extract", "--add", tmp_path / "a", "--corpus", "hf:me/b", "--out", tmp_path / "added", *ONE]
    run(online, *add)
    run(online, "merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "merged", *ONE)
    assert tables(tmp_path / "added") == tables(tmp_path / "merged") == tables(tmp_path / "whole") != {}
    assert arrays(tmp_path / "added") == arrays(tmp_path / "files")
    inputs = read_json(tmp_path / "added" / "run.json")["inputs"]
    assert inputs["corpus"]["named"] == [record["b"]]
    assert [store["named"] for store in inputs["stores"]] == [[record["a"]]]
    inputs = read_json(tmp_path / "merged" / "run.json")["inputs"]
    assert [store["named"] for store in inputs["stores"]] == [[record["a"]], [record["b"]]]

    before = files_of(tmp_path / "added")
    hub.move_main("datasets/me/b", {"a.txt": texts(9)})
    for lost in ("plan.json", "receipts/00000.json"):  # as if the command had been killed
        (tmp_path / "added" / lost).unlink()
        run(online, *add)
    assert {name: data for name, data in before.items() if not name.startswith("attempts/")}.items() <= files_of(
        tmp_path / "added"
    ).items()
    run(online, "extract", "--add", tmp_path / "added", "--corpus", "hf:me/c", "--out", tmp_path / "again", *ONE)
    inputs = read_json(tmp_path / "again" / "run.json")["inputs"]
    assert inputs["corpus"]["named"] == [record["c"]]
    assert inputs["stores"][0]["named"] == [record["a"], record["b"]]


@pytest.mark.slow
def test_stores_of_the_hub_grow_as_their_folders_do(
    hub: FakeHub, online: ScriptProcess, tiny_llm_folder: Path, tmp_path: Path
) -> None:
    for seed, name in enumerate("ab"):
        (tmp_path / f"{name}.txt").write_bytes(texts(seed))
        flags = ["--model", str(tiny_llm_folder), "--corpus", str(tmp_path / f"{name}.txt")]
        assert cli.main(["extract", *flags, "--out", str(tmp_path / name), *FEW]) == 0
    hub.repositories["me/store"] = files_of(tmp_path / "a")
    commit = hub.commit_of("me/store")
    for kind, rest in (("extract --add", ["--corpus", tmp_path / "b.txt"]), ("merge", [tmp_path / "b"])):
        words, folder = kind.split(), tmp_path / kind.partition(" ")[0]
        run(online, *words, tmp_path / "a", *rest, "--out", folder / "local", *ONE)
        named = [*words, "hf:me/store", *rest, "--out", folder / "named", *ONE]
        hub.asked.clear()
        run(online, *named)
        assert hub.asked.count(("me/store", "main")) == 1  # it may move before it is asked again
        assert arrays(folder / "named") == arrays(folder / "local")
        hub.move_main("me/store", {**hub.repositories["me/store"], f"{folder.name}.txt": b"another commit"})
        (folder / "named" / "receipts" / "00000.json").unlink()  # as if the command had been killed
        run(online, *named)
        (added, *_) = read_json(folder / "named" / "run.json")["config"]["add"]
        assert added.endswith(f"models--me--store/snapshots/{commit}")
        commit = hub.commit_of("me/store")
    models, corpora = {"tiny": str(tiny_llm_folder)}, {"b": "hf:me/b"}
    settings = {"out": str(tmp_path / "runs"), "models": models, "corpora": corpora, "extract": {"add": "hf:me/store"}}
    (tmp_path / "pipeline.yaml").write_text(json.dumps(settings))
    run(online, "pipeline", "--config", tmp_path / "pipeline.yaml", *ONE)
    assert arrays(tmp_path / "runs" / "tiny" / "b" / "store.zarr") == arrays(tmp_path / "extract" / "local")
    shutil.rmtree(tmp_path / "a")
    hub.repositories["me/cache"] = {"metadata.json": b'{"layers": [2]}', "layer_2/embeddings_cache.pt": b"gigabytes"}
    hub.repositories["me/model"] = {"config.json": b"{}"}
    for store, message in (
        ("hf:me/model", "store hf:me/model: no store, for it has no run.json; expected a store that lens extract made"),
        ("hf:me/cache", "store hf:me/cache: a cache folder of the latentlens library; expected a store that lens ext"),
        ("hf:me/none", "me/none: cannot be downloaded from the Hub (no such repository; for a private one: "),
        ("hf:me/store@old", "me/store: cannot be downloaded from the Hub (no revision 'old'; expected a branch, a "),
        ("hf:me/a/b", "store hf:me/a/b: expected hf:OWNER/NAME, or hf:OWNER/NAME@REVISION"),
    ):
        for words in (["extract", "--add", store, "--corpus", "phrases"], ["merge", tmp_path / "b", store]):
            said = online.run(RUN, *words, "--out", tmp_path / "refused", *ONE)
            assert said.startswith("2 ")
            assert message in said
    assert not (tmp_path / "refused").exists()
    assert "layer_2/embeddings_cache.pt" not in hub.downloaded
