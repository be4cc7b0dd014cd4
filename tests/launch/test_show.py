"""`lens show` from image to files, as a user types it: figure, page, table; mistakes are one line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.extract_job import ExtractJob
from launch import cli, show
from lenscore import shapes
from tests.conftest import WORDS
from tests.jobs.test_analyze import complete

ENDINGS = {"png", "pdf", "svg", "html"}


@pytest.fixture(scope="module")
def store(tiny_llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    (folder / "corpus.txt").write_text("\n".join(f"the {a} {b}" for a in WORDS[:9] for b in WORDS[5:9]))
    complete(ExtractJob(str(tiny_llm_folder), (folder / "corpus.txt",), folder / "s.zarr"))
    return folder / "s.zarr"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def shown(*flags: object) -> int:
    return cli.main(["show", *map(str, flags)])


def test_figure_page_and_table(capsys, tmp_path, tiny_vlm_folder, store, image):
    flags = ["--model", tiny_vlm_folder, "--image", image, "--store", store, "--layers", "0,3"]
    assert shown(*flags, "--out", tmp_path / "a") == 0
    out = capsys.readouterr().out
    assert f"figure: {tmp_path}/a/photo-lens.png (and .pdf, .svg)\n" in out
    assert f"page: {tmp_path}/a/photo-lens.html\n" in out
    assert all(title in out for title in ("photo.png", "LatentLens", "LogitLens", "EmbeddingLens", "1 row "))
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert set(files) == {f"photo-lens.{ending}" for ending in ENDINGS}
    assert shown(*flags, "--out", tmp_path / "b") == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()} == files
    assert "replaced" not in capsys.readouterr().out
    assert shown(*flags, "--out", tmp_path / "a", "--patches", "0,0;3,3", "--figure-width", "column") == 0
    out = capsys.readouterr().out
    assert "1 row 0, column 0" in out
    names = ", ".join(f"photo-lens.{ending}" for ending in sorted(ENDINGS))
    assert f"replaced, of an earlier image of this name: {names}; --out FOLDER keeps both\n" in out
    with Image.open(tmp_path / "a/photo-lens.png") as figure:
        assert figure.width == 990
    page = files["photo-lens.html"].decode()
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []


def test_without_a_store_and_into_this_folder(capsys, tmp_path, tiny_vlm_folder, image, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown("--model", tiny_vlm_folder, "--image", image.name) == 0
    assert "LatentLens" not in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", *(f"photo-lens.{ending}" for ending in ENDINGS)}


@pytest.mark.parametrize(
    "name", ["<script>alert(1)<.png", "two words & 'quotes'\u202eevil\u2067😀犬.png", "a\nb.png", "caf\udce9.png"]
)
def test_hostile_file_names(name, capsys, tmp_path, tiny_vlm_folder, image):
    hostile = image.rename(tmp_path / name)
    assert shown("--model", tiny_vlm_folder, "--image", hostile, "--out", tmp_path / "out", "--layers", "1") == 0
    assert len(list((tmp_path / "out").iterdir())) == 4
    printed = capsys.readouterr()
    assert [line for line in printed.err.splitlines() if not line.startswith("show: ")] == []
    assert "\u202e" not in printed.out
    assert "<script>alert" not in (tmp_path / "out" / f"{hostile.stem}-lens.html").read_text()


def test_mistakes_are_one_line(capsys, tmp_path, tiny_vlm_folder, store, image):
    def refused(*flags: object) -> str:
        merged = {"--model": tiny_vlm_folder, "--image": image, "--out": tmp_path / "out"}
        merged |= dict(zip(flags[::2], flags[1::2], strict=True))
        assert show.main([str(part) for pair in merged.items() for part in pair]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("show: ")]
        (message,) = lines
        assert message.startswith("error: ")
        assert not (tmp_path / "out").exists()
        return message

    (tmp_path / "broken.png").write_bytes(image.read_bytes()[:200])
    assert "No such file" in refused("--image", tmp_path / "gone.png")
    assert "cannot be read as an image" in refused("--image", tmp_path / "broken.png")
    assert "layers 0 to 3" in refused("--layers", "2,9")
    assert "'tarot' is not a lens" in refused("--lenses", "tarot")
    assert "--lenses latent: needs contextual embeddings" in refused("--lenses", "latent")
    assert "no such folder" in refused("--store", tmp_path / "nowhere.zarr")
    assert "dimensions" in refused("--model", shapes.model_path(), "--store", store)
    assert "no such model folder" in refused("--model", tmp_path / "nowhere")
    assert "--patches 7,1: view 0 of this image has rows 0 to 3" in refused("--patches", "7,1")
    assert "--top-k: found 0" in refused("--top-k", 0)
    assert "--sentences: found 0" in refused("--sentences", 0)
    assert "2 was not analysed; expected some of 0, 1" in refused("--layers", "0,1", "--figure-layers", "2")
    assert "--figure-layers 'x'" in refused("--figure-layers", "x")
    assert "finds no CUDA device" in refused("--device", "cuda") or sys.platform != "linux"
