"""`lens show` from image to files, as a user types it: figure, page, table; mistakes are one line."""

from __future__ import annotations

import re
import sys
import weakref
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


def test_several_models_on_one_picture(capsys, tmp_path, tiny_vlm_folder, store, image, monkeypatch):
    from lenscore.single_image import analysis

    loaded, alive = [], []

    def load(*arguments):
        alive.append(sum(one() is not None for one in loaded))
        vlm = loading(*arguments)
        loaded.append(weakref.ref(vlm.model))
        return vlm

    loading = analysis.vlm_of
    monkeypatch.setattr(analysis, "vlm_of", load)
    models = f"{tiny_vlm_folder},{shapes.model_path()},{tiny_vlm_folder}"
    flags = ["--models", models, "--stores", f"{store},,", "--layers", "0,3;1,5;all", "--image", image]
    assert shown(*flags, "--out", tmp_path / "out", "--patches", "1,2") == 0
    assert alive == [0, 0, 0]  # one model is in memory at a time
    printed = capsys.readouterr()
    first, second, third = re.split(r"photo\.png · ", printed.out)[1:]
    assert ["LatentLens" in part for part in (first, second, third)] == [True, False, False]
    assert [part.split("\n")[0].strip() for part in (first, second, third)] == ["vlm (1)", "shapes", "vlm (2)"]
    # The tiny model has 4 x 4 patches, the other 8 x 8: the middle of 1,2 is the corner of four of them.
    assert "1 row 1, column 2" in first
    assert "1 row 3, column 5" in second
    assert "1 row 1, column 2" in third
    stems = ["vlm-1", "shapes", "vlm-2"]
    names = {f"photo-lens-{stem}.{ending}" for stem in stems for ending in ("png", "pdf", "svg")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "photo-lens.html"}
    page = (tmp_path / "out/photo-lens.html").read_text()
    assert page.count("<iframe") == 3
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []


def test_mistakes_in_several_models_are_one_line_before_any_is_loaded(capsys, tmp_path, tiny_vlm_folder, store, image):
    def refused(*flags: object) -> str:
        command = ["--image", image, "--out", tmp_path / "out", *flags]
        assert show.main([str(part) for part in command]) == 2
        said = capsys.readouterr().err
        (message,) = [line for line in said.splitlines() if not line.startswith("show: ")]
        assert "loading the model" not in said
        return message

    both = f"{tiny_vlm_folder},{shapes.model_path()}"
    assert "found neither of --model and --models" in refused()
    assert "found both of --model and --models" in refused("--models", both, "--model", tiny_vlm_folder)
    assert "expected names as in A,B,C" in refused("--models", f"{tiny_vlm_folder},")
    assert "--stores: found 1 for 2 models" in refused("--models", both, "--stores", store)
    assert "--layers: found 3 for 2 models" in refused("--models", both, "--layers", "1;2;3")
    assert "--store does not go with --models; give --stores" in refused("--models", both, "--store", store)
    assert "--tuned-lenses does not go with --model; give --tuned" in refused(
        "--model", tiny_vlm_folder, "--tuned-lenses", tmp_path
    )
    assert "--revision" in refused("--models", both, "--revision", "main")
    assert "no such folder" in refused("--models", both, "--stores", f",{tmp_path / 'nowhere.zarr'}")
    wrong = refused("--models", both, "--stores", f",{store}")
    assert str(shapes.model_path()) in wrong
    assert "dimensions" in wrong
    deep = refused("--models", both, "--layers", "0,5")
    assert str(tiny_vlm_folder) in deep
    assert "layers 0 to 3" in deep
