"""Without a GPU no more workers are started than the memory holds, and the user is told why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from jobs.analyze_job import AnalyzeJob
from jobs.base import job_from
from jobs.extract_job import ExtractJob
from jobs.worker_memory import cache_bytes
from launch import extract
from launch.clusters import local
from launch.clusters.cluster import WorkerRequest
from launch.clusters.local import Local
from launch.estimate import estimate_table
from launch.stages import Launch, estimate_of
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.loading import load_model, load_vlm
from storage_layouts.free_memory import available_bytes
from storage_layouts.runs import RunFolder

GB = 10**9


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, 8000 * 1024),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.stat": "anon 1\n"}, 8000 * 1024),
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
                "sys/fs/cgroup/job/step/memory.current": "700\n",
                "sys/fs/cgroup/job/memory.max": "5000\n",
                "sys/fs/cgroup/job/memory.current": "3000\n",
                "sys/fs/cgroup/job/memory.stat": "anon 2500\ninactive_file 400\nactive_file 100\n",
            },
            2400,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/a\n2:memory,hugetlb:/not/mounted/here\n0::/a\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "6000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
                "sys/fs/cgroup/memory/memory.stat": "inactive_file 7\ntotal_inactive_file 50\n",
            },
            5050,
        ),
        (
            {
                "proc/self/cgroup": "0::/full\n",
                "sys/fs/cgroup/full/memory.max": "10\n",
                "sys/fs/cgroup/full/memory.current": "20\n",
                "sys/fs/cgroup/full/memory.stat": "inactive_file 0\n",
            },
            0,
        ),
    ],
    ids=["no group", "no limit", "version 2", "version 1", "above its limit"],
)
def test_the_free_memory_is_that_of_the_machine_or_of_the_group(tmp_path: Path, files, left: int) -> None:
    meminfo = {"proc/meminfo": "MemTotal: 9999 kB\nMemFree: 100 kB\nMemAvailable: 8000 kB\n"}
    assert available_bytes(write(tmp_path, meminfo | files)) == left


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_the_weights_take_what_the_header_says(tiny_llm_folder, tiny_vlm_folder, tmp_path, dtype) -> None:
    kind = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    llm, vlm = load_model(tiny_llm_folder, "cpu", kind)[0], load_vlm(tiny_vlm_folder, "cpu", kind).model
    llm.save_pretrained(tmp_path / "pieces", max_shard_size="20KB")
    assert len(list((tmp_path / "pieces").glob("*.safetensors"))) > 1
    for model, folder in ((llm, tiny_llm_folder), (vlm, tiny_vlm_folder), (llm, tmp_path / "pieces")):
        expected = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        assert Checkpoint(folder, dtype=dtype).weight_bytes == expected


def test_of_weights_that_cannot_be_read_nothing_is_known(tiny_llm_folder, tmp_path) -> None:
    config = (tiny_llm_folder / "config.json").read_text()
    for name, text in {"pytorch_model.bin": "pickle", "model.safetensors": "x" * 30}.items():
        folder = write(tmp_path / name, {"config.json": config, name: text})
        assert Checkpoint(folder).weight_bytes is None


@pytest.mark.parametrize(
    ("free", "each", "workers", "said"),
    [
        (64 * GB, 15 * GB, 4, "4 workers on 16 cores: each needs about 15.0 GB of memory, and 64.0 GB are free"),
        (9 * GB, 15 * GB, 1, "1 worker on 16 cores: each needs about 15.0 GB of memory, and 9.0 GB are free"),
        (300 * GB, 15 * GB, 16, ""),
        (9 * GB, None, 16, ""),
    ],
)
def test_as_many_as_fit(monkeypatch, free, each, workers, said) -> None:
    monkeypatch.setattr(local, "cores", lambda: 16)
    monkeypatch.setattr(local, "_devices", lambda request: ["cpu"])
    monkeypatch.setattr(local, "available_bytes", lambda: free)
    request = WorkerRequest(None, True, None, worker_bytes=lambda: each)
    assert Local().default_workers(request) == workers
    assert Local().fewer_workers(request, 100).startswith(said)
    assert bool(Local().fewer_workers(request, 100)) == bool(said)
    assert Local().fewer_workers(WorkerRequest(8, True, None, worker_bytes=lambda: each), 100) == ""
    monkeypatch.setattr(local, "_devices", lambda request: ["cuda:0", "cuda:1"])
    assert (Local().default_workers(request), Local().fewer_workers(request, 100)) == (2, "")


def test_the_command_starts_no_more_and_says_so(tiny_llm_folder, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "corpus.txt").write_text("the red cat\nthe dog\nthe blue dog\n")
    job = ExtractJob(str(tiny_llm_folder), (tmp_path / "corpus.txt",), tmp_path / "s.zarr", rows_per_shard=2)
    each = job.worker_bytes()
    monkeypatch.setattr(local, "cores", lambda: 3)
    monkeypatch.setattr(local, "available_bytes", lambda: each + each // 2)
    reason = "1 worker on 3 cores: each needs about"
    found = estimate_of(job_from(job), Launch(device="cpu"))
    assert (found.workers, found.worker_bytes) == (1, each)
    assert found.fewer_workers.startswith(reason)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(estimate_table(found))
    shown = captured.get()
    assert "for each worker on a CPU, weights included" in shown
    assert reason in shown
    flags = ["--model", job.model, "--corpus", str(job.corpus[0]), "--rows-per-shard", "2", "--device", "cpu"]
    assert extract.main([*flags, "--out", str(job.out)]) == 0
    assert reason in capsys.readouterr().err
    assert len({line["worker"] for line in RunFolder.open(job.out).attempts_log()}) == 1


def test_the_cache_of_an_answer_is_what_the_model_keeps() -> None:
    sizes = {"vocab_size": 8, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    kept = LlamaForCausalLM(config)(torch.zeros(1, 7, dtype=torch.int64), use_cache=True).past_key_values
    numbers = sum(part.numel() for layer in kept.layers for part in (layer.keys, layer.values))
    assert cache_bytes(config, 7) == 4 * numbers


def test_prompt_and_answer_take_memory(tiny_vlm_folder: Path, tmp_path: Path) -> None:
    def needed(**settings: object) -> int:
        job = AnalyzeJob(str(tiny_vlm_folder), tmp_path, tmp_path / "run", lenses="logit", batch_size=1, **settings)
        return job.worker_bytes() or 0

    image = needed()
    prompt = needed(prompt="the red dog " * 100) - image
    assert prompt > 4 * 32 * 290 * (16 + 2 * 4)  # in blocks, and the states of four layers twice
    assert needed(prompt="the red dog " * 100, tokens="image,text") > image + prompt  # the tables of its tokens
    answer = needed(tokens="image,generated", max_new_tokens=200) - image
    assert answer > 4 * 32 * 200 * (16 + 2 * 4 + 2 * 4)  # and keys and values of four blocks
    assert needed(tokens="image,generated", max_new_tokens=200) > needed(tokens="image,generated", max_new_tokens=100)
