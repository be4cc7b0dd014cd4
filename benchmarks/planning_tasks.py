"""One measurement of `planning.py`, in a separate process, whose peak memory is measured.

    python -m benchmarks.planning_tasks {floor,alone,shared-1,shared-2} MODEL CORPUS

Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.measuring import peak_mib


def floor(model: Path, corpus: Path) -> None:
    """Tokenise the distinct sentences, and nothing else."""
    from lenscore.contexts.corpus import read_corpus
    from lenscore.contexts.tokenization import tokenize
    from lenscore.models.checkpoint import Checkpoint

    texts = list(dict.fromkeys(read_corpus([corpus])))
    tokenizer = Checkpoint(model).tokenizer
    for first in range(0, len(texts), 8192):
        tokenize(texts[first : first + 8192], tokenizer, 512)


def planned(model: Path, corpus: Path, workers: int) -> None:
    """Plan an extraction: in this process, or with so many workers on this machine."""
    from rich.console import Console

    from jobs.extract_job import ExtractJob
    from launch.progress import StageProgress
    from launch.run_workers import plan_together
    from launch.stages import Launch
    from lenscore.contexts import corpus_pieces

    with tempfile.TemporaryDirectory() as folder:
        job = ExtractJob(model=str(model), corpus=(corpus,), out=Path(folder) / "store.zarr")
        launch = Launch(workers=workers or None)
        if workers:
            launch.prepare(job)
        else:
            corpus_pieces.PIECE_BYTES = 2**62
        run = job.open_run()
        if workers:
            with StageProgress(Console(stderr=True, quiet=True), "planning") as progress:
                assert plan_together(job, run, launch, [], progress) == ([], [])
        job.plan(run, lambda message: None)


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["floor", "alone", "shared-1", "shared-2"])
    parser.add_argument("model", type=Path)
    parser.add_argument("corpus", type=Path)
    given = parser.parse_args()
    began = time.perf_counter()
    if given.name == "floor":
        floor(given.model, given.corpus)
    else:
        planned(given.model, given.corpus, 0 if given.name == "alone" else int(given.name[-1]))
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
