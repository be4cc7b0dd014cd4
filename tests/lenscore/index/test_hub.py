"""Upload to and download from a Hub: a real HTTP server on this machine, real huggingface_hub, both kinds."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from lenscore import ContextualIndex
from tests.fake_hub import FakeHub, fake_hub
from tests.script_process import ScriptProcess
from tests.synthetic_run import CONTEXTUAL_LAYERS, make_store

HOUSE = Path(__file__).parents[3]

PUSH = """
import sys
import torch
import lenscore
index = lenscore.ContextualIndex.from_store(sys.argv[1])
print(index.push_to_hub("me/cache", storage_dtype=torch.float32))
print(index.push_to_hub("me/store", kind="store"))
lenscore.ContextualIndex.from_store(sys.argv[2]).push_to_hub("me/shared", kind="store")
"""
PULL = """
import json, sys
import torch
import lenscore
from dataclasses import asdict
repository, *layers = sys.argv[1:]
index = lenscore.ContextualIndex.from_pretrained(repository, layers=[int(layer) for layer in layers] or None)
found = index.search(torch.eye(8), top_k=5)
print(json.dumps([index.available_layers, [[asdict(neighbor) for neighbor in line] for line in found]]))
"""


def process(hub: FakeHub, home: Path, offline: bool = False) -> ScriptProcess:
    """A process that uses a hub; huggingface_hub reads these settings when it is imported."""
    environment = os.environ | {
        "PYTHONPATH": str(HOUSE),
        "HF_ENDPOINT": hub.address,
        "HF_HUB_OFFLINE": str(int(offline)),
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_none",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    return ScriptProcess(environment)


@pytest.mark.slow
def test_an_index_comes_back_from_the_hub_as_it_went(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store.zarr", separate_layers=True)
    shared = make_store(tmp_path / "shared.zarr")
    (store.path / "heartbeats").mkdir()
    (store.path / "heartbeats" / "w.json").write_text("{}")
    whole = ContextualIndex.from_store(store)
    whole.save(tmp_path / "cache", torch.float32)
    expected_of = {"me/store": whole, "me/cache": ContextualIndex.from_directory(tmp_path / "cache")}
    home = tmp_path / "home"
    with fake_hub() as hub, process(hub, home) as online, process(hub, home, offline=True) as offline:
        assert online.run(PUSH, store.path, shared.path).count(f"{hub.address}/me/") == 2
        assert sorted(hub.repositories["me/cache"]) == [
            *(f"layer_{layer}/embeddings_cache.pt" for layer in CONTEXTUAL_LAYERS),
            "metadata.json",
        ]
        assert not [path for path in hub.repositories["me/store"] if path.startswith(("heartbeats", "claims"))]
        for repository in ("me/cache", "me/store"):
            for layers in ([4], []):
                expected = expected_of[repository].search(torch.eye(8), 5, layers or None)
                hub.downloaded.clear()
                available, found = json.loads(online.run(PULL, repository, *layers))
                assert available == (layers or [1, 4])
                assert len(set(hub.downloaded)) == len(hub.downloaded) > 0  # each file once, none again
                if layers == [4]:
                    heavy = {path for path in hub.downloaded if path.endswith((".pt", "codes/c.0.0"))}
                    mine = "layers/04/codes/c.0.0" if repository == "me/store" else "layer_4/embeddings_cache.pt"
                    assert heavy == {mine}
                assert found == [[asdict(neighbor) for neighbor in line] for line in expected]
            assert json.loads(offline.run(PULL, repository)) == [available, found]
            said = online.run(PULL, repository, 3, fails=True)
            assert said.endswith(f"MissingFileError: {repository}: has no layer 3; expected some of 1, 4")
        expected = whole.search(torch.eye(8), 5, [4])
        available, found = json.loads(online.run(PULL, "me/shared", 4))
        assert (available, found) == ([4], [[asdict(neighbor) for neighbor in line] for line in expected])
        hub.repositories["me/model"] = {"config.json": b"{}", "README.md": b"a model"}
        said = online.run(PULL, "me/model", fails=True)
        assert "MissingFileError: me/model: has neither a store (run.json) nor a cache of latentlens (" in said
        said = online.run(PULL, "me/nothing", fails=True)
        assert "MissingFileError: me/nothing: cannot be downloaded from the Hub (" in said
