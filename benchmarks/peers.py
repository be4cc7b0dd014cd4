"""Extraction side by side with latentlens 0.1.0: same model, corpus, layers and machine, in turn.

    pip install --no-deps --target /tmp/peer latentlens==0.1.0
    python -m benchmarks.peers --peer /tmp/peer --phrases 20000
    python -m benchmarks.peers --peer /tmp/peer --model FOLDER --corpus concepts.txt --phrases 1000   # real weights

Both get the same loaded model (a random Llama of 8 blocks, or a model in the type of its checkpoint) and the same list
of phrases, and both build an index in memory with the same cap; one torch thread each. After the last run their results
are compared: the same number of rows, and for held-out states as queries the same neighbours in the same order. Two
neighbours may be swapped only if their similarities in latentlens differ by less than `TIE`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import lenscore
from benchmarks.measuring import interleaved, machine, markdown_table
from benchmarks.phrases import add_model_flags, model_and_sentences
from lenscore.models.loading import load_model

TIE = 1e-3
QUERIES, NEIGHBOURS = 200, 5


class Comparison:
    """One corpus for both libraries, and the last index of each."""

    def __init__(self, model: Any, tokenizer: Any, corpus: list[str], held_out: list[str], cap: int, peer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._corpus, self._held_out, self._cap, self._peer = corpus, held_out, cap, peer
        self.indexes: dict[str, Any] = {}

    def things(self) -> dict[str, Callable[[], None]]:
        """Returns the timed calls by name."""
        return {
            "lenscore": lambda: self._build("lenscore", lenscore),
            "latentlens": lambda: self._build("latentlens", self._peer),
        }

    def _build(self, name: str, library: Any) -> None:
        self.indexes[name] = library.build_index(
            "random",
            self._corpus,
            max_contexts_per_token=self._cap,
            model=self._model,
            tokenizer=self._tokenizer,
            show_progress=False,
        )

    def same_neighbours(self) -> tuple[int, int, int]:
        """Returns the number of compared neighbours, of those at the same rank, and of rows of one layer.

        Raises AssertionError if the rows differ, or if neighbours differ beyond ties.
        """
        ours, theirs = self.indexes["lenscore"], self.indexes["latentlens"]
        layers = ours.available_layers
        assert layers == theirs.available_layers
        assert len(theirs) == len(ours), f"{len(ours)} rows, the peer has {len(theirs)}"
        compared = same = 0
        for visual in layers:
            queries = self._queries(visual)
            for mine, its in zip(ours.search(queries, NEIGHBOURS), theirs.search(queries, NEIGHBOURS + 5), strict=True):
                known = {_identity(n): n.similarity for n in its}
                for place, neighbour in enumerate(mine):
                    expected = its[place]
                    compared += 1
                    same += _identity(neighbour) == _identity(expected)
                    found = known.get(_identity(neighbour))
                    assert found is not None, f"{neighbour} is not among the neighbours of latentlens"
                    assert abs(found - expected.similarity) < TIE, f"place {place}: {neighbour}, expected {expected}"
                    assert abs(neighbour.similarity - found) < TIE, f"{neighbour}, expected {found}"
        return compared, same, len(ours) // len(layers)

    def _queries(self, layer: int) -> torch.Tensor:
        found = []
        for text in self._held_out:
            ids = self._tokenizer(text, return_tensors="pt")["input_ids"]
            found.append(lenscore.get_hidden_states(self._model, ids)[layer][0, -1])
        return torch.stack(found)


def _identity(neighbour: Any) -> tuple[Any, ...]:
    return neighbour.contextual_layer, neighbour.caption, neighbour.position, neighbour.token_id


def main() -> None:
    """Print a table of medians and ratios. Raises AssertionError if the results differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="folder that latentlens 0.1.0 was installed into")
    parser.add_argument("--phrases", type=int, nargs="+", default=[20_000], help="corpus sizes")
    add_model_flags(parser)
    parser.add_argument("--cap", type=int, default=20, help="contexts of a token")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    sys.path.append(arguments.peer)
    import latentlens

    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model, sentences, name = model_and_sentences(Path(folder), arguments, max(arguments.phrases) + QUERIES)
        loaded = load_model(model, "cpu", dtype=None)
    for count in arguments.phrases:
        comparison = Comparison(*loaded, sentences[:count], sentences[-QUERIES:], arguments.cap, latentlens)
        timings = interleaved(comparison.things(), arguments.runs)
        peer, ours = timings["latentlens"], timings["lenscore"]
        compared, same, kept = comparison.same_neighbours()
        wall = peer.median_wall, ours.median_wall
        processor = peer.median_processor, ours.median_processor
        times = (*wall, wall[0] / wall[1], *processor, processor[0] / processor[1])
        rows.append([count, kept, *times, f"{same:,} of {compared:,}"])
    print(f"{machine()}\n{arguments.runs} interleaved runs; {name}\n")
    header = ["phrases", "rows", "latentlens s", "lenscore s", "ratio"]
    header += ["latentlens processor s", "lenscore processor s", "ratio", "neighbours at the same place"]
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
