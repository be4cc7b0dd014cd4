"""Extraction against the bare forward pass of exactly the sentences that are kept, and the time of each step.

    python -m benchmarks.limits --phrases 20000 --dim 64
    python -m benchmarks.limits --model FOLDER --corpus concepts.txt --phrases 1000    # real weights, real sentences

A model from a folder computes in its own type, as in `lens extract`. The limit: these sentences in memory,
in batches of equal length, through the same blocks only; nothing is tokenised, gathered, quantised or written. It is
compared with a worker of an extraction on all shards, and with the planning. One torch thread, as in every CPU worker.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import Timing, interleaved, machine, markdown_table, spent_in, timed, timing_table
from benchmarks.phrases import add_model_flags, model_and_sentences
from jobs.extract_job import ExtractJob
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.decoder import decoder_of
from lenscore.models.loading import load_model

STAGES = {
    "read row table": "storage_layouts.embeddings.EmbeddingStore.rows_of",
    "read sentences": "storage_layouts.embeddings.EmbeddingStore.sentence_texts",
    "tokenise": "lenscore.contexts.contextual_states.tokenize",
    "forward": "lenscore.contexts.contextual_states.run_until",
    "quantise": "jobs.extract_worker.encode",
    "write, flushed": "storage_layouts.embeddings.EmbeddingStore._write_layer",
}
"""The steps of a worker for a shard, and their functions."""


class Extraction:
    """A planned run in a folder, and the calls that are measured."""

    def __init__(self, folder: Path, model: Path, sentences: list[str], rows_per_shard: int, layers: str) -> None:
        self._model, self._sentences = model, sentences
        corpus = folder / "corpus.txt"
        corpus.write_text("\n".join(sentences), encoding="utf-8")
        self._job = ExtractJob(
            str(model), (corpus,), folder / "store.zarr", layers=layers, rows_per_shard=rows_per_shard
        )
        self._run = self._job.open_run()
        self.planning = timed(lambda: self._job.plan(self._run, lambda message: None))
        self.plan = self._run.require_plan()
        self._worker = self._job.open_worker(self._run, "cpu")
        model, _ = load_model(self._model, "cpu", dtype=None)
        self._bare = _first_blocks(model, max(self._job._layers(model.config)))
        self._batches = self._plain_batches()
        self.tokens = sum(ids.numel() for ids in self._batches)
        self.tokens_of_corpus = sum(map(len, self.tokenise()))

    def _plain_batches(self) -> list[Tensor]:
        worker = self._job.open_worker(self._run, "cpu")
        return [torch.from_numpy(batch.ids) for shard in self.plan.shards() for batch in worker._batches(shard)]

    def extract(self) -> None:
        """Compute all shards, from the row table to flushed files."""
        for shard in self.plan.shards():
            self._worker.run(shard)

    @torch.inference_mode()
    def forward(self) -> None:
        """Run the limit."""
        for ids in self._batches:
            self._bare(input_ids=ids, use_cache=False)

    def tokenise(self) -> list[list[int]]:
        """Tokenise the whole corpus once, as the planning does."""
        from lenscore.contexts.tokenization import tokenize

        tokenizer = Checkpoint(self._model).tokenizer
        return tokenize(self._sentences, tokenizer, 512)

    def stages(self) -> dict[str, tuple[float, float]]:
        """Returns wall and processor seconds of every step in one pass over all shards."""
        with spent_in(STAGES) as spent:
            everything = timed(self.extract)
        return {**spent, "all": everything}


def _first_blocks(model: Any, count: int) -> Any:
    """Returns the decoder with its first blocks only, which share their weights."""
    decoder = decoder_of(model)
    bare = copy.copy(decoder.module)
    bare._modules = dict(decoder.module._modules)
    name = next(name for name, child in decoder.module.named_children() if child is decoder.layers)
    setattr(bare, name, nn.ModuleList(decoder.layers[:count]))
    return bare


def main() -> int:
    """Print two tables; exit code 1 if the shards take more than 1.5 times the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phrases", type=int, default=20_000)
    add_model_flags(parser)
    parser.add_argument("--layers", default="paper")
    parser.add_argument("--rows-per-shard", type=int, default=8192)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model, sentences, name = model_and_sentences(Path(folder), arguments, arguments.phrases)
        extraction = Extraction(Path(folder), model, sentences, arguments.rows_per_shard, arguments.layers)
        things = {
            "bare forward": extraction.forward,
            "all shards": extraction.extract,
            "tokenise the corpus": extraction.tokenise,
        }
        timings = interleaved(things, arguments.runs)
        stages = extraction.stages()
    wall, processor = extraction.planning
    timings["planning (once)"] = Timing([wall], [processor])
    print(
        f"{machine()}\n{arguments.phrases:,} phrases, {extraction.plan.items:,} rows, {extraction.tokens:,} of "
        f"{extraction.tokens_of_corpus:,} tokens forwarded, {name}; {arguments.runs} interleaved runs\n"
    )
    print(timing_table(timings, "bare forward"))
    print("\nWhere the time of one pass over the shards goes:\n")
    everything = stages["all"][0]
    shares = [[name, wall, f"{wall / everything:.0%}", processor] for name, (wall, processor) in stages.items()]
    print(markdown_table(["stage", "wall s", "share", "processor s"], shares))
    return int(timings["all shards"].median_wall > 1.5 * timings["bare forward"].median_wall)


if __name__ == "__main__":
    sys.exit(main())
