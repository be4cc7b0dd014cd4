"""The stated memory of a search beside the largest resident set of a process that searches a store from its files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.synthetic_store import write_store
from lenscore.index.search_memory import search_memory
from storage_layouts.embeddings import EmbeddingStore

ROWS, DIM, K = 100_000, 1024, 5

SEARCH = """
import json, sys, torch
from pathlib import Path
from lenscore.index.contextual_index import ContextualIndex

def status(name):
    return 1024 * int(Path("/proc/self/status").read_text().split(name)[1].split()[0])

path, queries, limit, threads = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)
states = torch.randn(queries, 1024, generator=torch.Generator().manual_seed(1))
for dtype in (torch.float32, torch.bfloat16, torch.float64):  # what libraries keep
    states[:8].to(dtype) @ states[:8].T.to(dtype)
before = status("VmRSS:")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
index = ContextualIndex.from_store(path, memory=limit or None)
for _ in range(2):
    index.top(states, 5)
print(json.dumps([status("VmHWM:") - before, index.streams]))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "s", ROWS, DIM, 8192).path


@pytest.mark.parametrize(("queries", "limit", "threads"), [(16, 2**24, 1), (300, 2**24, 2), (16, 0, 1)])
def test_a_search_takes_no_more_memory_than_is_said(store: Path, queries: int, limit: int, threads: int) -> None:
    layout = EmbeddingStore.open(store).layout
    said = sum(search_memory(layout, 1, queries, K, limit or None, threads))
    arguments = [sys.executable, "-c", SEARCH, str(store), *map(str, (queries, limit, threads))]
    found = subprocess.run(arguments, capture_output=True, text=True, check=True)
    peak, streams = json.loads(found.stdout)
    assert streams is (limit > 0)
    assert said / 4 < peak <= said
    without_limit = sum(search_memory(layout, 1, queries, K, None, threads))
    assert limit == 0 or without_limit > said + 4 * limit  # a search that ignored the limit would be seen
