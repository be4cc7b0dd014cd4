"""How fast one layer comes from disk to a torch tensor: ours, torch.load of the peers' float32 cache, and a bare read.

    python benchmarks/loading.py --rows 300000 --dim 3584 --folder /tmp

Builds a store and a file `layer_8/embeddings_cache.pt` as latentlens 0.1.0 reads it (5.4 GB, removed at the end), then
loads each in turn, one run after the other, so that what else the machine does touches all alike. With --cold the
files leave the page cache before every load (posix_fadvise); otherwise all are warm. Every load ends with a sum over
some of the rows, so that nothing is only promised.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.quantize import Encoded
from storage_layouts.row_tables import write_rows_part, write_sentences
from storage_layouts.runs import Receipt, RunFolder
from storage_layouts.store_layout import StoreLayout

LAYER, SHARD = 8, 8192
PER_SENTENCE = 4


def build_store(path: Path, rows: int, dim: int) -> None:
    """A store of random codes; real formats, written as `extract` does."""
    generator = np.random.default_rng(0)
    run = RunFolder.create(path, "extract", {"benchmark": "loading"}, {})
    files = EmbeddingStore.write_skeleton(path, StoreLayout((LAYER,), rows, dim, "float8_e4m3fn", SHARD))
    numbers = np.arange(rows)
    table = {"row": numbers, "token_id": numbers % 5000, "token": [f"t{i % 5000}" for i in range(rows)]}
    table |= {"sentence_id": numbers // PER_SENTENCE, "position": numbers % PER_SENTENCE}
    table |= {"char_start": numbers * 0, "char_end": numbers * 0 + 4}
    name = "rows/part-00000.parquet"
    files[name] = write_rows_part(path / name, pa.table(table))
    texts = {"sentence_id": range(-(-rows // PER_SENTENCE)), "text": [*map(_sentence, range(-(-rows // PER_SENTENCE)))]}
    files["sentences.parquet"] = write_sentences(path / "sentences.parquet", pa.table(texts))
    run.write_plan(rows, SHARD, files, {})
    store = EmbeddingStore.open(path, allow_incomplete=True)
    store.set_outlier_dims(LAYER, range(8))
    for shard in run.require_plan().shards():
        n = shard.items
        codes = generator.integers(0, 127, (n, dim), dtype=np.uint8)
        apart = generator.random((n, 8), dtype=np.float32)
        encoded = Encoded(codes, apart, np.ones(n, np.float32), np.ones(n, np.float32))
        run.write_receipt(Receipt(shard.index, n, store.write_rows(LAYER, shard, encoded)))


def build_cache(path: Path, rows: int, dim: int) -> None:
    """The peers' file of one layer: float32 embeddings and a dictionary for each row."""
    path.parent.mkdir(parents=True)
    metadata = [
        {
            "token_str": f"t{i % 5000}",
            "token_id": i % 5000,
            "caption": _sentence(i // PER_SENTENCE),
            "position": i % PER_SENTENCE,
        }
        for i in range(rows)
    ]
    torch.save({"embeddings": torch.rand(rows, dim), "metadata": metadata}, path)


def _sentence(number: int) -> str:
    return f"the red fox of sentence {number}"


def forget(folder: Path) -> None:
    """Take the files of a folder out of the page cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def load_mapped(path: Path) -> object:
    """As `ContextualIndex.from_store` on a CPU."""
    codes = EmbeddingStore.open(path).map_layer(LAYER).codes
    return codes[len(codes) - 5 : len(codes)].sum()


def load_read(path: Path) -> object:
    """As `ContextualIndex.from_store` on a GPU, into memory of its own (pinned where there is a GPU)."""
    return torch.from_numpy(EmbeddingStore.open(path).read_layer(LAYER).codes)[-5:].sum()


def load_peers(path: Path) -> object:
    """As latentlens 0.1.0 does, without its normalisation afterwards."""
    return torch.load(path, map_location="cpu", weights_only=False)["embeddings"][-5:].sum()


def read_bare(path: Path, into: np.ndarray) -> object:
    """The same bytes of codes into memory that is already there, without looking at them."""
    rest = into
    for file in sorted((path / f"layers/{LAYER:02d}/codes").glob("c.*")):
        with file.open("rb", buffering=0) as source:
            rest = rest[source.readinto(rest) :]
    return into[-5:].sum()


def main() -> None:
    """Print a table of medians and of the ratios to them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--dim", type=int, default=3584)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", default="/tmp")
    parser.add_argument("--cold", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        store, cache = Path(folder) / "store.zarr", Path(folder) / "peers/layer_8/embeddings_cache.pt"
        build_store(store, arguments.rows, arguments.dim)
        build_cache(cache, arguments.rows, arguments.dim)
        on_disk = sum(file.stat().st_size for file in (store / "layers").rglob("c.*"))
        os.sync()
        place = np.ones(on_disk, np.uint8)
        contestants: dict[str, Callable[[], object]] = {
            "torch.load of the peers' float32 cache": lambda: load_peers(cache),
            "ours, mapped and checked (CPU)": lambda: load_mapped(store),
            "ours, read into its own memory and checked": lambda: load_read(store),
            "bare read of our codes (the limit of reading)": lambda: read_bare(store, place),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for run in range(arguments.runs + (0 if arguments.cold else 1)):
            for name, load in contestants.items():
                if arguments.cold:
                    forget(Path(folder))
                began = time.perf_counter()
                load()
                if arguments.cold or run:  # the first warms up
                    seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    peers = next(iter(medians.values()))
    state = "cold page cache" if arguments.cold else "warm page cache"
    print(f"{arguments.rows:,} rows x {arguments.dim:,}, {state}, {arguments.runs} runs, load {os.getloadavg()[0]:.1f}")
    print(f"on disk: {on_disk / arguments.rows / arguments.dim:.4f} x dim bytes a row\n")
    print("| load | median s | range s | times faster than torch.load |\n|---|---|---|---|")
    for name, median in medians.items():
        low, high = min(seconds[name]), max(seconds[name])
        print(f"| {name} | {median:.3f} | {low:.3f}-{high:.3f} | {peers / median:.1f} |")


if __name__ == "__main__":
    main()
