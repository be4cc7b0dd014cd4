"""Opening of a cache folder of latentlens 0.1.0, with its words: lenscore, latentlens, and the bytes alone.

    pip download latentlens==0.1.0 --no-deps -d /tmp/latentlens && cd /tmp/latentlens && unzip -q latentlens-0.1.0*.whl
    python -m benchmarks.opening --latentlens /tmp/latentlens

latentlens writes the cache, which is removed at the end, and unpickles it without protection. All run in turn in one
process, with the files in memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import normalize

from benchmarks.measuring import interleaved, timing_table
from lenscore.index.contextual_index import ContextualIndex

LIMIT = "bare read of the files"
TOKENS, POSITIONS = 3000, 5


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latentlens", required=True, help="folder with the unpacked latentlens 0.1.0")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=576)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.latentlens)
    from latentlens.index import ContextualIndex as Theirs  # type: ignore[import-not-found]

    generator = torch.Generator().manual_seed(0)
    shape = (arguments.rows, arguments.dim)
    layers = {
        layer: {
            "embeddings": normalize(torch.randn(shape, generator=generator), dim=1),
            "metadata": [
                {
                    "token_str": f"t{row % TOKENS}",
                    "caption": f"a sentence about {row // POSITIONS} things",
                    "position": row % POSITIONS + 2,
                    "token_id": row % TOKENS,
                }
                for row in range(arguments.rows)
            ],
        }
        for layer in range(arguments.layers)
    }
    with tempfile.TemporaryDirectory() as folder:
        Theirs(layers).save(folder)
        files = sorted(Path(folder).glob("layer_*/*"))
        opens: dict[str, Callable[[], object]] = {
            LIMIT: lambda: [file.read_bytes() for file in files],
            "latentlens 0.1.0": lambda: Theirs.from_directory(folder),
            "lenscore": lambda: ContextualIndex.from_directory(folder),
        }
        interleaved(opens, 1)  # warms up
        timings = interleaved(opens, arguments.runs)
    print(f"{arguments.layers} layers x {arguments.rows:,} x {arguments.dim:,}, {torch.get_num_threads()} threads\n")
    print(timing_table(timings, LIMIT))


if __name__ == "__main__":
    main()
