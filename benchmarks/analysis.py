"""What a worker of `lens analyze` needs: memory of a shard, time that its device waits, and time of each step.

    python -m benchmarks.analysis --layers 9 33
    python -m benchmarks.analysis --shapes

In the first table the device is replaced by random results of three lenses and a pause for each image, so only the
tables are measured; each line is a process of its own. The second one is of real images, in the shapes world; beside
its steps stands the bare product of its hidden states with the rows of its store, in float32.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import pyarrow as pa
import torch
from torch import Tensor

from benchmarks.measuring import in_own_process, machine, markdown_table, peak_mib, spent_in, timed
from jobs.analyze_job import AnalyzeJob, AnalyzeWorker
from jobs.extract_job import ExtractJob
from lenscore import shapes
from lenscore.analysis.engine import AnalysisEngine, BatchResults
from lenscore.analysis.lens_pass import LensPass
from lenscore.images.geometry.grids import ImageGeometry, Patch, View
from lenscore.images.image_files import ImageFile
from lenscore.index.topk import TopK
from lenscore.lenses import LatentLens
from storage_layouts.results import IMAGE_SCHEMA, write_images
from storage_layouts.runs import RunFolder

LENSES = ("latent", "logit", "embedding")
TOP_K = 5
BATCH = 8
STEPS = {
    "read and prepare images": "lenscore.images.preprocessing.BatchReader._prepare",
    "forward": "lenscore.analysis.engine.AnalysisEngine.forward",
    "latent lens": "lenscore.lenses.latent.LatentLens.top",
    "logit lens": "lenscore.lenses.logit.LogitLens.read",
    "embedding lens": "lenscore.lenses.embedding.EmbeddingLens.top",
    "tables, but for their flushing": "jobs.analyze_tables.ShardTables.add",
}
"""The steps of a worker, and their functions."""


class RandomDevice:
    """In place of an `AnalysisEngine`: random results, after a pause. `waited` are seconds in which it had no work."""

    def __init__(self, grid: int, layers: int, seconds: float) -> None:
        self.waited = 0.0
        self._grid, self._layers, self._seconds = grid, layers, seconds
        self._generator = torch.Generator().manual_seed(0)

    def analyze(self, images: Sequence[tuple[int, ImageFile]]) -> Iterator[BatchResults]:
        """Batches of results for (id, image) pairs; see `AnalysisEngine.analyze`."""
        for first in range(0, len(images), BATCH):
            ids = tuple(number for number, _ in images[first : first + BATCH])
            began = time.perf_counter()
            found = self._batch(ids)
            time.sleep(max(0.0, self._seconds * len(ids) - (time.perf_counter() - began)))
            ready = time.perf_counter()
            yield found
            self.waited += time.perf_counter() - ready

    def _batch(self, ids: tuple[int, ...]) -> BatchResults:
        tokens = self._grid**2 * len(ids)
        tops = {lens: self._top(tokens, 300_000 if lens == "latent" else 32_000, lens == "latent") for lens in LENSES}
        measures = torch.rand(3, self._layers, tokens, generator=self._generator)
        return BatchResults(ids, tuple(_geometry(self._grid) for _ in ids), LensPass(tops, {}), *measures, {})

    def _top(self, tokens: int, candidates: int, contextual: bool) -> TopK:
        shape = self._layers, tokens, TOP_K
        # Half of them are common ones, as of real words.
        spread = torch.rand(shape, generator=self._generator)
        ids = (candidates**spread).int()
        scores = torch.rand(shape, generator=self._generator).sort(dim=2, descending=True).values
        at = torch.randint(1, 32, shape, generator=self._generator, dtype=torch.int16)
        return TopK(ids, scores, at if contextual else torch.full_like(at, -1))


def _geometry(grid: int) -> ImageGeometry:
    places = [divmod(number, grid) for number in range(grid**2)]
    patches = (
        Patch(5 + number, 0, row, col, col / grid, row / grid, (col + 1) / grid, (row + 1) / grid)
        for number, (row, col) in enumerate(places)
    )
    return ImageGeometry(336, 336, (View(0, "full image", grid, grid),), tuple(patches))


def make_worker(path: Path, images: int, layers: int, device: RandomDevice) -> AnalyzeWorker:
    """A worker of a planned run of one shard."""
    facts = {"model": "made/vlm-7b", "lenses": LENSES, "layers": list(range(layers)), "top_k": TOP_K}
    run = RunFolder.create(path, "analyze", {"made": layers}, {})
    columns = {
        "image_id": range(images),
        "path": [f"/images/{number}.png" for number in range(images)],
        "sha256": [f"{number:064x}" for number in range(images)],
        "bytes": [0] * images,
        "caption": [None] * images,
    }
    files = {"images.parquet": write_images(run.path / "images.parquet", pa.table(columns, schema=IMAGE_SCHEMA))}
    run.write_plan(images, images, files, facts | {"contextual_layers": [1]})
    return AnalyzeWorker(run, cast(AnalysisEngine, device), "0" * 64)


def measure(path: Path, images: int, layers: int, grid: int, seconds: float) -> dict[str, Any]:
    """Compute a shard; returns memory in MiB beyond that before it, and seconds an image."""
    device = RandomDevice(grid, layers, seconds)
    worker = make_worker(path, images, layers, device)
    (shard,) = RunFolder.open(path).require_plan().shards()
    device._batch((0,))
    before = resident_mib()
    receipt: list[Any] = []
    wall, processor = timed(lambda: receipt.append(worker.run(shard)))
    digests = {name: digest for name, digest in receipt[0].files.items() if name != "model.json"}
    return {
        "mib": peak_mib() - before,
        "waited": 1000 * device.waited / images,
        "after": 1000 * (wall - seconds * images - device.waited) / images,
        "processor": 1000 * processor / images,
        "bytes": sum(digest.bytes for digest in digests.values()),
        "crc32": {name: digest.crc32 for name, digest in digests.items()},
    }


def steps(folder: Path, images: int) -> dict[str, tuple[float, float]]:
    """Wall and processor seconds of each step of a worker for so many images of the shapes world."""
    model = str(shapes.model_path())
    shapes.write_images(folder / "images", "test", images)
    store = ExtractJob(model, (shapes.corpus_path(),), folder / "store.zarr")
    _complete(store, store.open_run())
    job = AnalyzeJob(model, folder / "images", folder / "run", folder / "store.zarr", images_per_shard=BATCH)
    run = job.open_run()
    job.plan(run, lambda message: None)
    worker = job.open_worker(run, "cpu")
    queries: list[Tensor] = []
    search = LatentLens.top

    def noted(lens: LatentLens, states: Tensor, layers: Sequence[int], k: int) -> Any:
        queries.append(states)
        return search(lens, states, layers, k)

    shards = run.missing()
    worker.run(shards[0])  # which also prepares the search
    with patch.object(LatentLens, "top", noted), spent_in(STEPS) as spent:
        everything = timed(lambda: [worker.run(shard) for shard in shards])
    (index,) = [lens.index for lens in worker._engine._lenses if isinstance(lens, LatentLens)]
    rows = torch.cat([block for layer in index.available_layers for block in index.blocks(layer)])
    product = timed(lambda: [states.flatten(0, 1).float() @ rows.T for states in queries])
    return {"all": everything, **spent, "bare product with the store": product}


def _complete(job: ExtractJob, run: RunFolder) -> None:
    job.plan(run, lambda message: None)
    worker = job.open_worker(run, "cpu")
    for shard in run.missing():
        run.write_receipt(worker.run(shard))


def resident_mib() -> float:
    """Returns the memory of this process in MiB at this moment."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="of the shard")
    parser.add_argument("--layers", type=int, nargs="+", default=[9, 33])
    parser.add_argument("--grid", type=int, default=24, help="patches in a row and in a column")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds of the device for an image")
    parser.add_argument("--shapes", action="store_true", help="the steps in the shapes world, with --images images")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run"
            found = measure(path, arguments.images, arguments.layers[0], arguments.grid, arguments.pause)
        print(json.dumps(found))
        return 0
    if arguments.shapes:
        with tempfile.TemporaryDirectory() as folder:
            found = steps(Path(folder), arguments.images)
        print(f"{machine()}\n{arguments.images} images of the shapes world, one thread\n")
        print(markdown_table(["step", "wall s", "processor s"], [[name, *spent] for name, spent in found.items()]))
        return 0
    words = ["--images", str(arguments.images), "--grid", str(arguments.grid), "--pause", str(arguments.pause), "--one"]
    rows = []
    for layers in arguments.layers:
        found = in_own_process("benchmarks.analysis", "--layers", str(layers), *words)
        rows.append([layers, *(found[name] for name in ("mib", "waited", "after", "processor", "bytes"))])
    print(machine())
    print(f"{arguments.images} images of {arguments.grid} x {arguments.grid} patches, 3 lenses, top {TOP_K}\n")
    header = ["layers", "memory of the shard, MiB", "waited, ms an image", "after the last, ms an image"]
    print(markdown_table([*header, "processor (random results included), ms an image", "bytes"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
