"""Search of a store that is larger than a device: 10 M rows of width 1,024 in 8 bits, beside reading and multiplying.

    python -m benchmarks.large_search                        # in memory; needs 12 GB
    python -m benchmarks.large_search --streamed --rows 2000000    # from files, an eighth of which may be in memory

In memory: the search, a bare read of the codes by as many threads (their sum), and the bare products of decoded blocks
with the queries, in the dtype of the search, of a block that stays in the cache. What takes longer of reading and
multiplying is the limit. Streamed: the same search of a store that is mapped as a whole, that is streamed, and that two
devices share, for several numbers of queries; all find the same. With --cold the files leave the page cache before.

Codes are random bytes; all searches are run in turn in one process.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.loading import forget, read_bare
from benchmarks.measuring import interleaved, machine, markdown_table, timing_table, work_folder
from benchmarks.synthetic_store import FILL, SCALE, write_store
from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.error_bounds import scan_dtype
from lenscore.index.exact_search import BLOCK
from lenscore.index.quantized_layer import QuantizedLayer
from lenscore.index.single_threaded import on_own_threads
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.quantize import Encoded, outlier_count

TOP = 5
AT_A_TIME = 2**15
READ, PRODUCT = "bare read of the codes", "bare products of decoded blocks"


def random_layer(rows: int, dim: int, encoding: str) -> QuantizedLayer:
    """A layer of random codes, with rows of a length of about 1."""
    rng, kept = np.random.default_rng(0), outlier_count(dim)
    codes = torch.empty(rows, dim, dtype=torch.uint8)
    for first in range(0, rows, AT_A_TIME):
        some = codes[first : first + AT_A_TIME].numpy()
        some[:] = rng.integers(1, 255, some.shape, np.uint8)
        some[some == FILL] = 1
        some[:, :kept] = 128 if encoding == "int8" else 0
    scale = (1 / 73 if encoding == "int8" else SCALE) / dim**0.5
    small = torch.full((rows, kept), 0.01), torch.full((rows,), scale), torch.ones(rows)
    return QuantizedLayer(Encoded(codes, *small), encoding, np.arange(kept))


def read(codes: Tensor) -> None:
    """Read all bytes by as many threads as a search has."""

    def work(pieces: Iterable[Tensor]) -> None:
        for piece in pieces:
            piece.view(torch.int64).sum()

    on_own_threads(work, codes.split(AT_A_TIME), torch.get_num_threads())


def multiply(rows: int, dim: int, queries: Tensor) -> None:
    """Multiply as many blocks of rows with the queries as a search does."""
    dtype = scan_dtype(queries.device)
    step = min(BLOCK["cpu"][0] // dim, BLOCK["cpu"][1])

    def work(blocks: Iterable[int]) -> None:
        block, place = torch.ones(step, dim, dtype=dtype), torch.empty(step, len(queries), dtype=dtype)
        for _ in blocks:
            torch.mm(block, queries.to(dtype).T, out=place)

    on_own_threads(work, range(-(-rows // step)), torch.get_num_threads())


def in_memory(rows: int, dim: int, queries: int, encoding: str, runs: int) -> None:
    """Print the table of a search in memory."""
    layer = random_layer(rows, dim, encoding)
    index = ContextualIndex({0: layer})
    asked = torch.randn(queries, dim, generator=torch.Generator().manual_seed(1))
    calls: dict[str, Callable[[], object]] = {
        READ: lambda: read(layer.encoded.codes),
        PRODUCT: lambda: multiply(rows, dim, asked),
        f"lenscore, {encoding}, exact": lambda: index.top(asked, TOP),
    }
    interleaved(calls, 1)  # measures the rows
    timings = interleaved(calls, runs)
    gigabytes = layer.encoded.codes.numel() / 1e9
    print(f"{queries} queries, {rows:,} x {dim:,} in {encoding}, {gigabytes:.1f} GB, products in {scan_dtype(_CPU)}")
    print(f"{torch.get_num_threads()} threads; {machine()}\n")
    print(timing_table(timings, PRODUCT))
    print(f"\nread at {gigabytes / timings[READ].median_wall:.1f} GB/s")


def streamed(folder: Path, rows: int, dim: int, queries: list[int], runs: int, cold: bool) -> None:
    """Print the table of searches of a store whose rows are in files, which are not in memory if it is `cold`."""
    path = folder / "store.zarr"
    store = EmbeddingStore.open(path) if path.exists() else write_store(path, rows, dim, 8192)
    place = np.ones(sum(file.stat().st_size for file in path.glob("layers/codes/c.*")), np.uint8)
    limit = store.layout.layer_bytes // 8
    whole = {} if cold else {"mapped as a whole": ContextualIndex.from_store(store)}  # whose files stay in memory
    indices = whole | {
        "streamed, an eighth in memory": ContextualIndex.from_store(store, memory=limit),
        "streamed, two devices": ContextualIndex.from_store(store, device=["cpu", "cpu"], memory=limit),
    }
    lines = []
    for count in queries:
        asked = torch.randn(count, dim, generator=torch.Generator().manual_seed(1))
        found = {name: index.top(asked, TOP) for name, index in indices.items()}
        first = next(iter(found.values()))
        if not all(map(torch.equal, first, top) for top in found.values()):
            raise AssertionError("the searches differ")
        calls: dict[str, Callable[[], object]] = {"bare read of the files": lambda: read_bare(path, place)}
        for name, index in indices.items():
            calls[name] = partial(index.top, asked, TOP)
        timings = interleaved(calls, runs, partial(forget, path) if cold else gc.collect)
        lines.append([count, *(timing.median_wall for timing in timings.values())])
    state = "on disk" if cold else "in the page cache"
    print(f"{rows:,} x {dim:,} in float8, {state}; {torch.get_num_threads()} threads; {machine()}\n")
    print(markdown_table(["queries", *(f"{name}, s" for name in calls)], lines))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, nargs="+", default=[64])
    parser.add_argument("--encoding", choices=["float8_e4m3fn", "int8"], default="float8_e4m3fn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--streamed", action="store_true", help="from the files of a store")
    parser.add_argument("--cold", action="store_true", help="with --streamed: files leave the page cache first")
    parser.add_argument("--folder", type=Path, help="for the store; it is kept; by default a temporary one")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.streamed:
        with work_folder(arguments.folder) as folder:
            streamed(folder, arguments.rows, arguments.dim, arguments.queries, arguments.runs, arguments.cold)
    else:
        for count in arguments.queries:
            in_memory(arguments.rows, arguments.dim, count, arguments.encoding, arguments.runs)


_CPU = torch.device("cpu")

if __name__ == "__main__":
    main()
