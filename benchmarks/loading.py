"""Time to load one layer from disk into a torch tensor: lenscore, torch.load of latentlens' float32 cache, a bare read.

    python -m benchmarks.loading --rows 300000 --dim 3584 --folder /tmp

Builds a store and a file `layer_8/embeddings_cache.pt` as latentlens 0.1.0 reads it (5.4 GB, removed at the end), then
loads each in turn. With --cold the files leave the page cache before every load (posix_fadvise); otherwise all are
warm. Every load ends with a sum over some of the rows, so that no read is deferred.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.measuring import interleaved, timing_table
from benchmarks.synthetic_store import LAYER, write_store
from storage_layouts.embeddings import EmbeddingStore

ROWS_PER_SHARD = 8192
PER_SENTENCE = 4


def build_cache(path: Path, rows: int, dim: int) -> None:
    """Write a latentlens file of one layer: float32 embeddings, and a dictionary for each row."""
    path.parent.mkdir(parents=True)
    metadata = [
        {
            "token_str": f"t{i % 5000}",
            "token_id": i % 5000,
            "caption": f"the red fox of sentence {i // PER_SENTENCE}",
            "position": i % PER_SENTENCE,
        }
        for i in range(rows)
    ]
    torch.save({"embeddings": torch.rand(rows, dim), "metadata": metadata}, path)


def forget(folder: Path) -> None:
    """Remove the files of a folder from the page cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def load_mapped(path: Path) -> object:
    """Load as `ContextualIndex.from_store` on a CPU."""
    codes = EmbeddingStore.open(path).map_layer(LAYER).codes
    return codes[len(codes) - 5 : len(codes)].sum()


def load_read(path: Path) -> object:
    """Load as `ContextualIndex.from_store` on a GPU, into new memory (pinned with a GPU)."""
    return torch.from_numpy(EmbeddingStore.open(path).read_layer(LAYER).codes)[-5:].sum()


def load_peers(path: Path) -> object:
    """Load as latentlens 0.1.0, without its normalisation afterwards."""
    return torch.load(path, map_location="cpu", weights_only=False)["embeddings"][-5:].sum()


def read_bare(path: Path, into: np.ndarray) -> object:
    """Read the same bytes of codes into existing memory, without a check."""
    rest = into
    for file in sorted((path / "layers/codes").glob("c.*")):
        with file.open("rb", buffering=0) as source:
            rest = rest[source.readinto(rest) :]
    return into[-5:].sum()


def main() -> None:
    """Print a table of medians and of their ratios to a bare read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--dim", type=int, default=3584)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", default="/tmp")
    parser.add_argument("--cold", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        store, cache = Path(folder) / "store.zarr", Path(folder) / "peers/layer_8/embeddings_cache.pt"
        write_store(store, arguments.rows, arguments.dim, ROWS_PER_SHARD)
        build_cache(cache, arguments.rows, arguments.dim)
        on_disk = sum(file.stat().st_size for file in (store / "layers").rglob("c.*"))
        os.sync()
        place = np.ones(on_disk, np.uint8)
        loads: dict[str, Callable[[], object]] = {
            "torch.load of the latentlens float32 cache": lambda: load_peers(cache),
            "lenscore, mapped and checked (CPU)": lambda: load_mapped(store),
            "lenscore, read into new memory and checked": lambda: load_read(store),
            "bare read of the codes (the limit)": lambda: read_bare(store, place),
        }
        before: Callable[[], object] = partial(forget, Path(folder)) if arguments.cold else gc.collect
        if not arguments.cold:
            interleaved(loads, 1)  # warms up
        timings = interleaved(loads, arguments.runs, before)
    state = "cold page cache" if arguments.cold else "warm page cache"
    print(f"{arguments.rows:,} rows x {arguments.dim:,}, {state}, {arguments.runs} runs, load {os.getloadavg()[0]:.1f}")
    print(f"on disk: {on_disk / arguments.rows / arguments.dim:.4f} x dim bytes a row\n")
    print(timing_table(timings, "bare read of the codes (the limit)"))


if __name__ == "__main__":
    main()
