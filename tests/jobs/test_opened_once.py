"""A tokenizer, which takes seconds to load if it is large, is opened once a process, and copied only when needed."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from jobs.analyze_job import AnalyzeJob
from jobs.base import Job
from jobs.extract_job import ExtractJob
from jobs.train_job import TrainJob
from launch.estimate import estimate
from lenscore.images import preprocessing
from lenscore.images.image_files import find_images
from lenscore.models.loading import Vlm
from lenscore.single_image.analysis import analyze_image
from tests.training_parts import save_encoder, save_llm


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders from which tokenizers were loaded, through whatever class."""
    seen: list[str] = []
    honest = PreTrainedTokenizerBase.__dict__["_from_pretrained"].__func__

    def noted(cls: type, *args: object, **settings: object) -> object:
        seen.append(cls.__name__)
        return honest(cls, *args, **settings)

    monkeypatch.setattr(PreTrainedTokenizerBase, "_from_pretrained", classmethod(noted))
    return seen


@pytest.fixture
def jobs(tiny_llm_folder: Path, tiny_vlm_folder: Path, tmp_path: Path) -> list[Callable[[], Job]]:
    (tmp_path / "c.txt").write_text("the red cat\nthe dog\n")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png\n")
    return [
        lambda: ExtractJob(str(tiny_llm_folder), (tmp_path / "c.txt",), tmp_path / "s.zarr"),
        lambda: AnalyzeJob(str(tiny_vlm_folder), tmp_path / "list.txt", tmp_path / "r", lenses="logit,embedding"),
    ]


def test_in_a_process_that_plans_and_works(opened: list[str], jobs: list[Callable[[], Job]]) -> None:
    for make in jobs:
        job = make()
        run = job.open_run()
        job.plan(run, print)
        job.open_worker(run, "cpu")
        assert len(opened) == 1
        opened.clear()


def test_by_a_training_that_is_begun_again(opened: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (96, 96), "red").save(tmp_path / "a.png")
    (tmp_path / "captions.csv").write_text("path,caption\na.png,a red cat\n")
    parts = (str(save_llm("llama", tmp_path / "llm")), str(save_encoder("clip", tmp_path / "clip")))
    opened.clear()
    job = TrainJob(
        *parts, str(tmp_path), tmp_path / "run", vit_layers="-2,-4", image_token="<picture>", steps=1, batch_size=1
    )
    job.plan(job.open_run(), print)
    assert job.open_run().plan is not None  # the tokenizer has an image token by now, and is still that of the run
    assert len(opened) == 1


def test_by_plan_with_its_probe(opened: list[str], jobs: list[Callable[[], Job]]) -> None:
    for make in jobs:
        found = estimate(make(), 1, "cpu", None, Console(file=io.StringIO()))
        assert found.source.startswith("probed on cpu")
        assert len(opened) == 1
        opened.clear()


def test_by_an_image_of_a_named_model(opened: list[str], tiny_vlm_folder: Path) -> None:
    analyze_image(Image.new("RGB", (32, 32), "red"), str(tiny_vlm_folder), lenses="logit", device="cpu")
    assert len(opened) == 1


def test_a_processor_is_copied_for_a_thread_that_reads_and_not_before(
    tiny_vlm: Vlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = 0
    honest = copy.deepcopy

    def counted(value: Any, *memo: Any) -> Any:
        nonlocal copies
        copies += value is tiny_vlm.processor
        return honest(value, *memo)

    monkeypatch.setattr(preprocessing.copy, "deepcopy", counted)
    for i in range(3):
        Image.new("RGB", (32, 32), (i, i, i)).save(tmp_path / f"{i}.png")
    reader = preprocessing.BatchReader(tiny_vlm, "what?", 1)
    reader.batch_of({0: Image.new("RGB", (32, 32))})
    assert copies == 0
    images = list(enumerate(find_images(tmp_path)))
    assert len(list(reader.read(images[:1]))) == 1
    assert copies == 1
    assert len(list(reader.read(images))) == 3
    assert copies <= 3
    while not reader._processors.empty():
        assert reader._processors.get().tokenizer._tokenizer is tiny_vlm.tokenizer._tokenizer


def test_threads_that_share_a_tokenizer_get_what_each_would_get_alone(tiny_vlm: Vlm) -> None:
    """Padding and truncation are settings of the tokenizer, so calls at one time would take those of each other."""
    texts = [["the red cat " * count, "a dog"] for count in range(1, 300)]
    tokenizer = copy.deepcopy(tiny_vlm.tokenizer)
    tokenizer.pad_token = tokenizer.eos_token

    def tokens(called: Any, number: int) -> Any:
        limit = {"truncation": True, "max_length": 20 + number % 5} if number % 3 else {}
        return called(texts[number], padding=bool(number % 2), **limit)["input_ids"]

    alone = [tokens(tokenizer, number) for number in range(len(texts))]
    shared = preprocessing.called_by_one_thread(tokenizer)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda number: tokens(shared, number), range(len(texts)))) == alone
