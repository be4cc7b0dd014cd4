"""How fast a corpus is planned by one process and by several workers, and what a thousand workers would do.

    python -m benchmarks.planning --model FOLDER --corpus FILE --repeat 20      # minutes

The corpus is repeated so often in a temporary folder. Each line of the first table is a separate process, or as many as
it has workers, and all are run `--rounds` times in turn; the floor is the tokenisation of the distinct sentences alone.
The second table is a simulation of the tree of shards with the costs that were recorded: it needs no cluster.
"""

from __future__ import annotations

import argparse
import heapq
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import in_own_process, machine, markdown_table
from jobs.extract_job import ExtractJob
from jobs.planning_tree import PlanningTree
from lenscore.contexts import corpus_pieces
from lenscore.contexts.corpus import corpus_files, corpus_identity
from storage_layouts.planning_tables import read_planning_table

TASKS = "benchmarks.planning_tasks"
TOKENS = 10e9
WORKERS = (1, 2, 8, 64, 1000)


@dataclass(frozen=True)
class Costs:
    """Processor seconds of the parts of a planning, as recorded.

    Attributes:
        piece: of one piece of the corpus.
        tokens: of one piece.
        context: of one context that a merge reads.
        kept: contexts that a piece keeps.
        text: to read a piece for its sentences.
        sentence: to find the characters of the tokens of one kept sentence.
        byte: to hash a byte of the corpus; the command does so before and after.
        row: to write a row of the store's tables.

    """

    piece: float
    tokens: float
    context: float
    kept: float
    text: float
    sentence: float
    byte: float
    row: float


def simulate(costs: Costs, tokens: float, workers: int, rows: int) -> dict[str, float]:
    """Seconds of the phases of a planning of so many tokens by so many workers, that keeps `rows` contexts.

    Each worker takes the next shard that is ready; starting and waiting for a scheduler are left out.
    """
    tree = PlanningTree(max(2, round(tokens / costs.tokens)))
    seconds, kept = {}, dict.fromkeys(tree.levels[0], costs.kept)
    for shard in range(tree.shards):
        kind, _ = tree.place(shard)
        if kind == "piece":
            seconds[shard] = costs.piece
        elif kind == "merge":
            read = sum(kept[one] for one in tree.inputs(shard))
            kept[shard] = min(read, rows)
            seconds[shard] = read * costs.context
        elif kind == "texts":
            seconds[shard] = costs.text + rows / tree.pieces * costs.sentence
        else:
            seconds[shard] = rows * costs.row
    free = [0.0] * min(workers, tree.shards)
    ends = dict.fromkeys(range(tree.shards), 0.0)
    for shard in range(tree.shards):  # a level needs only those before it
        ready = max((ends[one] for one in tree.inputs(shard)), default=0.0)
        ends[shard] = max(heapq.heappop(free), ready) + seconds[shard]
        heapq.heappush(free, ends[shard])
    marks = [
        max(ends[shard] for shard in level) for level in (tree.levels[0], [tree.root], tree.texts, tree.levels[-1])
    ]
    size = corpus_pieces.PIECE_BYTES * tree.pieces
    return {
        "pieces": marks[0],
        "merges": marks[1] - marks[0],
        "sentences": marks[2] - marks[1],
        "tables": marks[3] - marks[2],
        "hashes": 2 * size * costs.byte,
    }


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the simulated store")
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        with corpus.open("wb") as file:
            for _ in range(given.repeat):
                file.write(given.corpus.read_bytes())
        print(measured(given.model, corpus, given.rounds))
        if corpus.stat().st_size <= corpus_pieces.PIECE_BYTES:
            print("\nNo simulation: the corpus has only one piece; expected a larger --repeat.")
            return
        costs = recorded(given.model, corpus, Path(folder) / "recorded")
    print(f"\n{costs}\n\n{TOKENS:.0e} tokens, {given.rows:,} rows, simulated seconds:\n")
    rows = []
    for workers in WORKERS:
        phases = simulate(costs, TOKENS, workers, given.rows)
        rows.append([workers, *(f"{value:,.1f}" for value in phases.values()), f"{sum(phases.values()):,.0f}"])
    print(markdown_table(["workers", *simulate(costs, TOKENS, 1, given.rows), "all"], rows))


def measured(model: Path, corpus: Path, rounds: int) -> str:
    """The table of measured times, medians of some rounds."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for name in ("floor", "alone", "shared-1", "shared-2"):
            found.setdefault(name, []).append(in_own_process(TASKS, name, str(model), str(corpus)))
    rows = []
    for name, runs in found.items():
        wall, peak = (statistics.median(run[key] for run in runs) for key in ("seconds", "peak_mib"))
        rows.append([name, f"{wall:.1f}", f"{peak:.0f}"])
    return markdown_table(["planning", "seconds", "peak MiB of the command"], rows)


def recorded(model: Path, corpus: Path, out: Path) -> Costs:
    """Plan once in this process, and return what each part cost."""
    job = ExtractJob(model=str(model), corpus=(corpus,), out=out)
    began = time.process_time()
    corpus_identity(corpus_files([corpus]))
    byte = (time.process_time() - began) / corpus.stat().st_size
    run = job.open_run()
    run.settle()
    planning = job.planning(run)
    assert planning is not None
    own = planning.open_run()
    planning.plan(own, lambda message: None)
    tree = PlanningTree(own.require_plan().facts["pieces"])
    worker = planning.open_worker(own, "cpu")
    spent: dict[int, float] = {}
    for shard in own.require_plan().shards():
        began = time.process_time()
        own.write_receipt(worker.run(shard))
        spent[shard.index] = time.process_time() - began
    assembled = spent[tree.shards - 1] - byte * corpus.stat().st_size
    receipts = {receipt.shard: receipt for receipt in own.receipts()}
    kept = {shard: len(read_planning_table(own, "contexts", receipts[shard])) for shard in range(tree.root + 1)}
    merges = range(tree.pieces, tree.root + 1)
    texts = sorted(spent[shard] for shard in tree.texts)
    facts = run.require_plan().facts
    read = sum(kept[one] for shard in merges for one in tree.inputs(shard))
    return Costs(
        piece=statistics.mean(spent[shard] for shard in tree.levels[0]),
        tokens=facts["contexts_seen"] / tree.pieces,
        context=sum(spent[shard] for shard in merges) / read,
        kept=statistics.mean(kept[shard] for shard in tree.levels[0]),
        text=texts[0],
        sentence=sum(seconds - texts[0] for seconds in texts) / facts["sentences_kept"],
        byte=byte,
        row=assembled / run.require_plan().items,
    )


if __name__ == "__main__":
    main()
