"""How fast 576 queries meet 8 layers of 50,000 rows: ours, latentlens 0.1.0, and the bare products of matrices.

    pip download latentlens==0.1.0 --no-deps -d /tmp/latentlens && cd /tmp/latentlens && unzip -q latentlens-0.1.0*.whl
    python benchmarks/search.py --latentlens /tmp/latentlens

All take turns in one process, one run after the other, so that what else the machine does touches all alike. The limit
is the product of float32 matrices alone, layer by layer, into memory that is already there. Then recall: the share of
the five best by float64 cosines of the states before they were stored that is found again, with eight dimensions that
are 1, 100 and 3000 times larger than the others.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.error_bounds import scan_dtype
from lenscore.index.exact_search import unit_rows
from lenscore.index.quantized_layer import QuantizedLayer
from storage_layouts.quantize import choose_outlier_dims, encode

TOP = 5


def coded(states: Tensor, encoding: str) -> QuantizedLayer:
    """States as a store would hold them."""
    dims = choose_outlier_dims(states)
    return QuantizedLayer(encode(states, encoding, dims), encoding, dims)


def take_turns(contestants: dict[str, Callable[[], object]], runs: int) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds by the clock and of processor time of each run, after one that warms up."""
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in contestants}
    for run in range(runs + 1):
        for name, search in contestants.items():
            began, began_processor = time.perf_counter(), time.process_time()
            search()
            if run:
                seconds[name][0].append(time.perf_counter() - began)
                seconds[name][1].append(time.process_time() - began_processor)
    return seconds


def recall(rogue: float, spread: float, encoding: str, rows: int, dim: int, queries: int) -> float:
    """Share of the five best in float64 that are found among stored rows.

    Eight dimensions are `rogue` times larger, and vary from row to row by `spread` of that (1: like all others).
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
    metadata = [{"token_str": "fox", "caption": "a red fox", "position": 2, "token_id": 3}] * arguments.rows
    ours = ContextualIndex(codes)
    theirs = Theirs({layer: {"embeddings": rows, "metadata": metadata} for layer, rows in unit_states.items()})
    contestants: dict[str, Callable[[], object]] = {
        "bare float32 product (the limit)": lambda: [
            torch.mm(units, rows.T, out=place) for rows in unit_states.values()
        ],
        "latentlens 0.1.0, float32": lambda: theirs.search(asked, TOP),
        "ours, float8, exact": lambda: ours.top(asked, TOP),
    }
    seconds = take_turns(contestants, arguments.runs)
    wall = {name: statistics.median(times) for name, (times, _) in seconds.items()}
    processor = {name: statistics.median(times) for name, (_, times) in seconds.items()}
    limit = next(iter(wall))
    print(
        f"{arguments.queries} queries, {arguments.layers} layers x {arguments.rows:,} x {arguments.dim:,}, "
        f"{arguments.runs} runs, {torch.get_num_threads()} threads, products in {scan_dtype(torch.device('cpu'))}, "
        f"load {os.getloadavg()[0]:.1f}\n"
    )
    print("| search | median s | range s | x the limit | processor s | x the limit |\n|---|---|---|---|---|---|")
    for name, median in wall.items():
        low, high = min(seconds[name][0]), max(seconds[name][0])
        ratio, other = median / wall[limit], processor[name] / processor[limit]
        print(f"| {name} | {median:.2f} | {low:.2f}-{high:.2f} | {ratio:.2f} | {processor[name]:.2f} | {other:.2f} |")
    print(f"\nours is {wall['latentlens 0.1.0, float32'] / wall['ours, float8, exact']:.2f} x as fast as latentlens\n")
    print("| recall@5 against float64 | float8 | int8 | float16 |\n|---|---|---|---|")
    for rogue, spread in ((1.0, 1.0), (100.0, 1.0), (3000.0, 1.0), (100.0, 0.03), (3000.0, 0.03)):
        encodings = ("float8_e4m3fn", "int8", "float16")
        found = [recall(rogue, spread, name, 20_000, arguments.dim, 200) for name in encodings]
        print(
            f"| eight dimensions x {rogue:g}, spread {spread:g} | "
            + " | ".join(f"{share:.4f}" for share in found)
            + " |"
        )


if __name__ == "__main__":
    main()
