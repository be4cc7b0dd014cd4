"""What a command loads before it has something to compute: no library that takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from jobs.unchanged_inputs import TICK
from launch import analyze, extract
from launch.cli import VERBS, main
from tests.training_parts import save_encoder

MORE = {
    "annotate": {"jinja2", "numpy", "pandas", "pyarrow", "pydantic", "scipy"},
    "agreement": {"numpy", "pandas", "pyarrow", "pydantic", "scipy"},
}
"""What these two load, which read no long files: about a second."""
LARGE = {
    *("torch", "transformers", "accelerate", "safetensors", "tokenizers", "sklearn", "datasets", "huggingface_hub"),
    *("numpy", "pandas", "pyarrow", "scipy", "matplotlib", "jinja2", "zarr", "numcodecs", "zstandard"),
    *("openai", "pydantic", "httpx", "submitit", "ray"),
}
COMMANDS = """
import contextlib, io, json, sys
from launch.cli import main
for words in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
    print(json.dumps([code or 0, sorted({name.partition(".")[0] for name in sys.modules}), said.getvalue()]))
"""
"""A Python of its own that runs one command after the other. What a command has loaded stays loaded."""


def loaded_by(*commands: list[str]) -> list[tuple[int, set[str], str]]:
    """Exit code of each command, the packages that are loaded behind it, and what it said."""
    python = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(python, capture_output=True, text=True, timeout=120, check=True)
    return [(code, set(packages), said) for code, packages, said in map(json.loads, done.stdout.splitlines())]


def test_help_loads_no_large_library() -> None:
    verbs = [verb for verb in VERBS if verb not in MORE]
    asked = [*verbs, "annotate"]  # "agreement" in a process of its own, for it loads less than "annotate"
    for verb, (code, packages, said) in [
        *zip(asked, loaded_by(*([verb, "--help"] for verb in asked)), strict=True),
        *zip(["agreement"], loaded_by(["agreement", "--help"]), strict=True),
    ]:
        assert code == 0
        assert packages & LARGE == MORE.get(verb, set()), verb
        assert "tyro" in packages
        assert f"lens {verb}" in said


def test_the_layouts_on_disk_load_no_torch() -> None:
    names = [f"storage_layouts.{path.stem}" for path in (Path(__file__).parents[2] / "storage_layouts").glob("*.py")]
    code = f"import sys; [__import__(name) for name in {names}]; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], timeout=120, check=True)


def test_a_mistake_is_said_before_a_large_library_is_loaded(tmp_path: Path, tiny_vlm_folder: Path) -> None:
    mistakes = [
        (["extract", "--modle", "m"], "no flag --modle"),
        (["extract", "--model", "m", "--corpus", "c.txt", "--out", "o", "--per-token", "0"], "--per-token: found 0"),
        (["extract", "--model", "/no/such", "--corpus", "c.txt", "--out", "o"], "/no/such: no such model folder"),
        (["extract", "--model", "{tmp}", "--corpus", "c.txt", "--out", "o"], "a folder without config.json"),
        (["extract", "--model", "{model}", "--corpus", "gone.txt", "--out", "o"], "gone.txt: no such file"),
        (["analyze", "--model", "{model}", "--images", "gone", "--store", "s", "--out", "o"], "gone: no such file"),
        (["analyze", "--model", "{model}", "--images", "{tmp}", "--store", "s", "--out", "o"], "s: not a run folder"),
        (["train", "--llm", "{model}", "--vision", "{model}", "--data", "gone", "--out", "o"], "gone: no such file"),
        (["judge", "--results", "gone", "--out", "o"], "gone: not a run folder"),
        (["judge", "--results", "gone", "--out", "o", "--cover", "2"], "--cover: found 2"),
    ]
    commands = [[word.format(tmp=tmp_path, model=tiny_vlm_folder) for word in words] for words, _ in mistakes]
    for (words, expected), (code, packages, said) in zip(mistakes, loaded_by(*commands), strict=True):
        assert code == 2, words
        assert expected in said
        assert not packages & LARGE - {"huggingface_hub"}, words


@pytest.fixture
def settled(tmp_path: Path, tiny_llm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with inputs that are old enough to be recognised, and a cache folder of its own."""
    monkeypatch.setenv("LENSCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "corpus.txt").write_text("a red dog\nthe cat is small\n")
    (tmp_path / "images").mkdir()
    for number in range(2):
        Image.new("RGB", (32, 32), (90 * number, 40, 200)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "list.txt").write_text("images/0.png\nimages/1.png\n")
    time.sleep(TICK / 1e9 + 0.1)
    return tmp_path


def words_of(verb: str, settings: dict[str, object]) -> list[str]:
    """A command line."""
    return [verb, *(f"--{name}={value}" for name, value in settings.items())]


def assert_known(*words: str) -> None:
    """The command, given again in a Python of its own, is complete without what reads its inputs."""
    ((code, packages, said),) = loaded_by([*words])
    assert (code, "torch" in packages) == (0, False), said


@pytest.mark.slow
def test_a_complete_extract_is_known_until_its_corpus_changes(
    settled: Path, tiny_llm_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = settled / "corpus.txt"
    flags = ["--model", str(tiny_llm_folder), "--corpus", str(corpus), "--out", str(settled / "s.zarr")]
    assert extract.main(flags) == 0
    assert_known("extract", *flags)
    # Other settings, or a file of the run that is not whole, are refused as ever.
    assert extract.main([*flags, "--seed", "1"]) == 2
    receipt = next((settled / "s.zarr" / "receipts").iterdir())
    kept = receipt.read_bytes()
    receipt.write_bytes(kept[:-9])
    assert extract.main(flags) == 2
    receipt.write_bytes(kept)
    # The same size and time of modification: only the inode says that it was changed.
    about = corpus.stat()
    corpus.write_text("a red cat\nthe dog is small\n")
    os.utime(corpus, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert corpus.stat().st_size == about.st_size
    capsys.readouterr()
    assert extract.main(flags) == 2
    assert "this folder belongs to another run" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("source", ["images", "list.txt"])
def test_a_complete_analysis_is_known_until_an_image_changes(settled: Path, tiny_vlm_folder: Path, source: str) -> None:
    flags = ["--model", str(tiny_vlm_folder), "--images", str(settled / source), "--lenses", "logit", "--layers", "1"]
    flags += ["--no-self-test", "--out", str(settled / "r")]
    assert analyze.main(flags) == 0
    assert_known("analyze", *flags)
    if source == "images":
        Image.new("RGB", (32, 32)).save(settled / source / "2.png")
    else:
        Image.new("RGB", (32, 32)).save(settled / "images" / "1.png")
    assert analyze.main(flags) == 2


@pytest.mark.slow
def test_complete_stages_with_tables_of_their_own_are_known(
    settled: Path, tiny_llm_folder: Path, tiny_vlm_folder: Path
) -> None:
    save_encoder("dinov2", settled / "encoder")
    captions = "\n".join(f"images/{number}.png,a red dog" for number in range(2))
    (settled / "captions.csv").write_text(f"path,caption\n{captions}\n")
    corpus, store, results = settled / "corpus.txt", settled / "s.zarr", settled / "results"
    analysis = {"model": tiny_vlm_folder, "images": settled / "images", "store": store, "lenses": "latent,logit"}
    sequences = {"sequences-per-step": 1, "tokens-per-sequence": 16}
    parts = {"llm": tiny_llm_folder, "vision": settled / "encoder", "data": settled / "captions.csv"}
    assert main(words_of("extract", {"model": tiny_vlm_folder, "corpus": corpus, "out": store})) == 0
    assert main(words_of("analyze", {**analysis, "layers": "1", "out": results})) == 0
    time.sleep(TICK / 1e9 + 0.1)
    commands: list[tuple[str, dict[str, object]]] = [
        ("intervene", {"results": results, "substitutes": "mean-state", "patches": 1, "out": settled / "effects"}),
        ("sharpen", {"results": results, "sources": "templates", "patches": 2, "rounds": 1, "out": settled / "sharp"}),
        ("tune", {"model": tiny_llm_folder, "corpus": "phrases", **sequences, "steps": 1, "out": settled / "tuned"}),
        ("train", {**parts, "vit-layers": "-1", "steps": 1, "batch-size": 2, "out": settled / "trained"}),
    ]
    for verb, settings in commands:
        words = words_of(verb, settings)
        assert main(words) == 0, verb
        assert_known(*words)
