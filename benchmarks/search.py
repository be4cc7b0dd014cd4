"""Search of 576 queries in 8 layers of 50,000 rows: lenscore, latentlens 0.1.0, and the bare matrix products.

`--rows 1000 --dim 576 --queries 1` is an index as people explore it by hand.

    pip download latentlens==0.1.0 --no-deps -d /tmp/latentlens && cd /tmp/latentlens && unzip -q latentlens-0.1.0*.whl
    python -m benchmarks.search --latentlens /tmp/latentlens

All run in turn in one process. The limit is the product of float32 matrices alone, layer by layer, into existing
memory. Then recall: the share of the five nearest neighbours by float64 cosines of the unquantized states that is
found, with eight dimensions that are 1, 100 and 3000 times larger than the others.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.measuring import interleaved, markdown_table, timing_table
from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.error_bounds import scan_dtype
from lenscore.index.exact_search import unit_rows
from lenscore.index.quantized_layer import QuantizedLayer
from storage_layouts.latentlens_files import words_of
from storage_layouts.quantize import choose_outlier_dims, encode

TOP = 5
LIMIT = "bare float32 product (the limit)"


def coded(states: Tensor, encoding: str) -> QuantizedLayer:
    """Quantize states as in a store."""
    dims = choose_outlier_dims(states)
    return QuantizedLayer(encode(states, encoding, dims), encoding, dims)


def recall(rogue: float, spread: float, encoding: str, rows: int, dim: int, queries: int) -> float:
    """Returns the share of the five nearest neighbours in float64 that are found among stored rows.

    Args:
        rogue: how many times larger eight of the dimensions are.
        spread: their relative standard deviation between rows; at 1 they are distributed like all others.
        encoding: of the rows.
        rows: number of rows.
        dim: number of dimensions.
        queries: number of queries.

    """
    generator = torch.Generator().manual_seed(7)
    large = torch.randperm(dim, generator=generator)[:8]

    def states(count: int) -> Tensor:
        drawn = torch.randn(count, dim, generator=generator)
        drawn[:, large] = rogue * (drawn[:, large] if spread == 1 else 1 + spread * drawn[:, large])
        return drawn

    layers = {layer: states(rows) for layer in (8, 16)}
    asked = states(queries)
    units = unit_rows(asked)
    scores = torch.cat([units @ unit_rows(states).T for states in layers.values()], dim=1)
    best = scores.topk(TOP, dim=1).indices
    top = ContextualIndex({layer: coded(states, encoding) for layer, states in layers.items()}).top(asked, TOP)
    found = top.ids.long() + (top.contextual_layers.long() // 8 - 1) * rows
    return float((found[:, :, None] == best[:, None, :]).any(dim=2).float().mean())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latentlens", required=True, help="folder with the unpacked latentlens 0.1.0")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=576)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.latentlens)
    from latentlens.index import ContextualIndex as Theirs  # type: ignore[import-not-found]

    generator = torch.Generator().manual_seed(0)
    asked = torch.randn(arguments.queries, arguments.dim, generator=generator)
    units, place = normalize(asked, dim=1), torch.empty(arguments.queries, arguments.rows)
    codes, unit_states = {}, {}
    for layer in range(arguments.layers):
        states = torch.randn(arguments.rows, arguments.dim, generator=generator)
        codes[layer] = coded(states, "float8_e4m3fn")
        unit_states[layer] = normalize(states, dim=1)
    metadata = [
        {"token_str": "fox", "caption": f"a red fox, {row}", "position": 2, "token_id": 3}
        for row in range(arguments.rows)
    ]
    ours = ContextualIndex(codes, *words_of(metadata))
    theirs = Theirs({layer: {"embeddings": rows, "metadata": metadata} for layer, rows in unit_states.items()})
    searches: dict[str, Callable[[], object]] = {
        LIMIT: lambda: [torch.mm(units, rows.T, out=place) for rows in unit_states.values()],
        "latentlens 0.1.0, float32": lambda: theirs.search(asked, TOP),
        "lenscore, float8, exact": lambda: ours.search(asked, TOP),
    }
    interleaved(searches, 1)  # warms up
    timings = interleaved(searches, arguments.runs)
    print(
        f"{arguments.queries} queries, {arguments.layers} layers x {arguments.rows:,} x {arguments.dim:,}, "
        f"{arguments.runs} runs, {torch.get_num_threads()} threads, products in {scan_dtype(torch.device('cpu'))}, "
        f"load {os.getloadavg()[0]:.1f}\n"
    )
    print(timing_table(timings, LIMIT))
    _, peer, exact = timings.values()
    print(f"\nlenscore is {peer.median_wall / exact.median_wall:.2f} x as fast as latentlens\n")
    encodings = ("float8_e4m3fn", "int8", "float16")
    rows = [
        [f"eight dimensions x {rogue:g}, spread {spread:g}"]
        + [f"{recall(rogue, spread, name, 20_000, arguments.dim, 200):.4f}" for name in encodings]
        for rogue, spread in ((1.0, 1.0), (100.0, 1.0), (3000.0, 1.0), (100.0, 0.03), (3000.0, 0.03))
    ]
    print(markdown_table([f"recall@{TOP} against float64", *encodings], rows))


if __name__ == "__main__":
    main()
