"""A store that is larger than the memory given to it: the same bytes, and one reading of it for a whole shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.analyze_job import AnalyzeJob
from jobs.extract_job import ExtractJob
from jobs.work import work
from jobs.worker_memory import tokens_of_input
from launch import analyze
from launch.stages import Launch, estimate_of
from lenscore.index import device_shares
from lenscore.index.search_memory import search_memory
from storage_layouts.embeddings import EmbeddingStore
from tests.conftest import WORDS
from tests.run_bytes import bytes_of

LIMIT = 16 * 1024


def complete(job: ExtractJob | AnalyzeJob, *memory: int) -> Path:
    run = job.open_run()
    job.plan(run, lambda message: None)
    assert not work(run, lambda: job.open_worker(run, "cpu", *memory), "test").refused
    run.require_complete()
    return run.path


@pytest.fixture(scope="module")
def inputs(tiny_llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of more than LIMIT bytes, and six pictures, of which one is none, and all of the second shard."""
    folder = store_and_pictures(tmp_path_factory.mktemp("inputs"), tiny_llm_folder, pictures=4)
    for number in (2, 4, 5):
        (folder / "images" / f"{number}.png").write_bytes(b"not an image")
    return folder


def store_and_pictures(folder: Path, model: Path, pictures: int) -> Path:
    """Fill a folder with a store of more than LIMIT bytes, and some pictures."""
    rng = np.random.default_rng(1)
    (folder / "corpus.txt").write_text("\n".join(" ".join(rng.choice(WORDS, rng.integers(2, 7))) for _ in range(60)))
    complete(ExtractJob(str(model), (folder / "corpus.txt",), folder / "s.zarr", rows_per_shard=64))
    store = EmbeddingStore.open(folder / "s.zarr")
    assert len(store.layers) * store.layout.layer_bytes > 1.5 * LIMIT
    (folder / "images").mkdir()
    for number in range(pictures):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(folder / "images" / f"{number}.png")
    return folder


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of streamed parts of each search."""
    found: list[int] = []

    def counted(parts: Sequence[device_shares.Part], device: object) -> Iterator[device_shares.Part]:
        found.append(len(parts))
        return original(parts, device)

    original = device_shares._streamed
    monkeypatch.setattr(device_shares, "_streamed", counted)
    return found


@pytest.mark.parametrize(
    "more", [{}, {"tokens": "all", "max_new_tokens": 3, "explained": True, "rogue_dimensions": True}]
)
def test_a_small_limit_changes_no_byte_and_reads_the_store_once_a_shard(
    inputs: Path, tiny_vlm_folder: Path, tmp_path: Path, passes: list[int], more: dict
) -> None:
    def job(name: str) -> AnalyzeJob:
        out = tmp_path / name
        return AnalyzeJob(
            str(tiny_vlm_folder), inputs / "images", out, inputs / "s.zarr", images_per_shard=4, batch_size=1, **more
        )

    whole = complete(job("whole"))
    assert sum(passes) == 0
    passes.clear()
    assert bytes_of(complete(job("limited"), LIMIT)) == bytes_of(whole)
    assert len([parts for parts in passes if parts]) == 1  # of the shard that has images


def test_the_memory_of_a_worker_is_that_of_a_store_which_is_read_for_many_images(
    inputs: Path, tiny_vlm_folder: Path, tmp_path: Path, passes: list[int]
) -> None:
    """States of all images of a shard wait for it: four at two layers, instead of those of one forward pass."""
    model, more = str(tiny_vlm_folder), {"images_per_shard": 4, "batch_size": 1, "top_k": 3, "layers": "0,2"}
    job = AnalyzeJob(model, inputs / "images", tmp_path / "run", inputs / "s.zarr", **more)
    layout = EmbeddingStore.open(inputs / "s.zarr").layout
    image, prompt = tokens_of_input(job._checkpoint, job.prompt)
    few, many = 2 * (image + prompt), 2 * 4 * image
    searches = [search_memory(layout, len(layout.layers), states, 3).private for states in (few, many)]
    added = 4 * layout.dim * (many - few) + searches[1] - searches[0]
    whole = job.worker_bytes()
    assert whole == job.worker_bytes(2**40)
    assert job.worker_bytes(LIMIT) == whole + added
    of_command = Launch(index_memory="16KB").request(job)
    assert of_command.worker_bytes() == whole + added
    assert Launch().request(job).worker_bytes() == whole
    assert sum(passes) == 0
    assert estimate_of(job, Launch(index_memory="16KB", device="cpu")).worker_bytes == whole + added
    assert sum(passes) > 0  # so the rate of the probe is that of a worker with this limit


def test_the_flag_limits_workers_and_is_not_a_part_of_the_run(
    inputs: Path, tiny_vlm_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(tiny_vlm_folder), "--images", str(inputs / "images"), "--store", str(inputs / "s.zarr")]
    flags += ["--workers", "1", "--device", "cpu", "--out"]
    assert analyze.main([*flags, str(tmp_path / "whole")]) == 0
    limited = [*flags, str(tmp_path / "limited"), "--index-memory"]
    assert analyze.main([*limited, "1K"]) == 2
    assert "--index-memory: found 1,024 bytes for cpu, expected at least" in capfd.readouterr().err
    assert analyze.main([*limited, "lots"]) == 2
    assert "--index-memory: found 'lots', expected a size with its unit, as in 32GB" in capfd.readouterr().err
    assert analyze.main([*limited, "16KB"]) == 0
    assert bytes_of(tmp_path / "limited") == bytes_of(tmp_path / "whole")


def test_without_a_store_the_flag_says_that_it_has_no_effect(
    inputs: Path, tiny_vlm_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(tiny_vlm_folder), "--images", str(inputs / "images"), "--lenses", "logit", "--workers", "1"]
    assert analyze.main([*flags, "--out", str(tmp_path / "run"), "--index-memory", "1GB"]) == 0
    assert "--index-memory had no effect" in capfd.readouterr().err
