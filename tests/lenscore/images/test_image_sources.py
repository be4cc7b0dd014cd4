"""Images and image tables of any format, name and place are read, or left out and counted."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lenscore.images.image_files import UnreadableImageError, decode_image, find_images, image_suffixes, open_image
from lenscore.images.table_cells import image_bytes
from lenscore.training.pairs import Columns, ImageReader, find_pairs
from lenscore.user_files.finding import path_from_stored, stored_path
from lenscore.user_files.notes import Notes
from storage_layouts.errors import InputError


def encoded(colour: str, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(stream, kind)
    return stream.getvalue()


def test_every_format_that_pillow_decodes_is_taken_and_the_rest_counted(tmp_path: Path) -> None:
    kinds = {".avif": "AVIF", ".jfif": "JPEG", ".jp2": "JPEG2000", ".ppm": "PPM", ".PNG": "PNG"}
    for ending, kind in kinds.items():
        (tmp_path / f"a{ending}").write_bytes(encoded("red", kind))
    for name in ("film.mov", "b.md", "c.md", "d.h5", ".DS_Store", "._a.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "a.png").write_bytes(encoded("red"))
    notes = Notes()
    found = find_images(tmp_path, notes=notes)
    assert {image.path.suffix for image in found} == set(kinds)
    assert all(open_image(image).size == (8, 6) for image in found)
    assert sorted(notes.lines()) == [
        "files of other kinds, not taken: 4 (.md 2, .h5 1, .mov 1)",
        "hidden files and folders, not taken: 3 (.DS_Store 1, ._a.png 1, .ipynb_checkpoints 1)",
    ]
    assert {".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"} <= image_suffixes()


def test_captions_in_a_folder_are_not_read_but_said_and_can_be_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.png").write_bytes(encoded("red"))
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\na.png,a red one\n")
    (tmp_path / "test" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "another"}\n')
    notes = Notes()
    assert [image.caption for image in find_images(tmp_path, notes=notes)] == [None, None]
    tables = f"{tmp_path}/test/metadata.jsonl 1, {tmp_path}/train/metadata.csv 1"
    assert f"captions beside the images, not read (--images TABLE reads them): 2 ({tables})" in notes.lines()
    for table, caption in (("train/metadata.csv", "a red one"), ("test/metadata.jsonl", "another")):
        (image,) = find_images(tmp_path / table)
        assert (image.caption, image.path.name, open_image(image).size) == (caption, "a.png", (8, 6))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded("red"))
    subprocess.run(["mkfifo", str(tmp_path / "pipe.png")], check=True)
    notes = Notes()
    assert [image.path.name for image in find_images(tmp_path, notes=notes)] == ["a.png"]
    assert notes.lines() == ["not a regular file, not taken: 1 (pipe.png 1)"]
    (tmp_path / "list.txt").write_text("pipe.png\na.png\n")
    with pytest.raises(UnreadableImageError, match="not a regular file"):
        open_image(find_images(tmp_path / "list.txt")[0])


def test_a_name_that_is_not_utf8_is_stored_and_found_again(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 %41.png"))
    path.write_bytes(encoded("red"))
    (image,) = find_images(tmp_path)
    text = stored_path(image.path)
    assert text.encode("utf-8").endswith(b"/caf%E9%20%2541.png")
    assert path_from_stored(text) == path
    assert stored_path(Path("/a/b %41.png")) == "/a/b %41.png" == str(path_from_stored("/a/b %41.png"))


def test_twelve_bits_in_sixteen_are_not_black() -> None:
    for white in (255, 1023, 4095, 65535):
        stream = io.BytesIO()
        Image.fromarray(np.array([[0, white // 2, white]], np.uint16)).save(stream, "PNG")
        assert np.asarray(decode_image(stream.getvalue()))[0, :, 0].tolist() in ([0, 127, 255], [0, 128, 255])
    stream = io.BytesIO()
    Image.fromarray(np.array([[-5, 100_000]], np.int32)).save(stream, "TIFF")
    with pytest.raises(UnreadableImageError, match="levels from -5 to 100000"):
        decode_image(stream.getvalue())


def test_the_limit_of_pixels_is_of_the_call() -> None:
    data = encoded("red")
    with pytest.raises(UnreadableImageError, match=r"8 x 6 pixels, more than 47 .*--max-pixels"):
        decode_image(data, max_pixels=47)
    assert decode_image(data, max_pixels=48).size == (8, 6)
    assert Image.MAX_IMAGE_PIXELS is not None


HUGGING_FACE = pa.table(
    {
        "id": pa.array(range(5)),
        "image": pa.array(
            [
                {"bytes": encoded("red"), "path": "x/one.png"},
                {"bytes": None, "path": "two.png"},
                {"bytes": encoded("lime"), "path": None},
                {"bytes": None, "path": None},
                {"bytes": b"no image", "path": None},
            ]
        ),
        "text": pa.array([["one", "uno"], ["two"], None, ["four"], ["five"]]),
    }
)


def test_images_inside_of_a_parquet_file_are_read_by_analyze_and_train(tmp_path: Path) -> None:
    (tmp_path / "two.png").write_bytes(encoded("blue"))
    pq.write_table(HUGGING_FACE, tmp_path / "hf.parquet", row_group_size=2)
    notes = Notes()
    images = find_images(tmp_path / "hf.parquet", notes=notes)
    assert notes.lines() == ["rows without an image, left out: 1 (hf.parquet 1)"]
    assert [image.caption for image in images] == ["one / uno", "two", None, "five"]
    names = [str(image.path.relative_to(tmp_path)) for image in images]
    assert names == ["hf.parquet/image/1-one.png", "two.png", "hf.parquet/image/3", "hf.parquet/image/5"]
    colours = [open_image(image).getpixel((0, 0)) for image in images[:3]]
    assert colours == [(255, 0, 0), (0, 0, 255), (0, 255, 0)]
    with pytest.raises(UnreadableImageError, match="cannot identify"):
        open_image(images[3])
    with pytest.raises(OSError, match="fewer rows"):
        image_bytes(tmp_path / "hf.parquet" / "image" / "9")
    notes = Notes()
    pairs = find_pairs(str(tmp_path / "hf.parquet"), Columns(), notes)
    assert [pair.caption for pair in pairs] == ["one", "uno", "two", "five"]
    assert "images without a caption, left out: 1 (hf.parquet 1)" in notes.lines()
    reader = ImageReader()
    assert [reader.open(pair).getpixel((0, 0)) for pair in pairs[:3]] == [(255, 0, 0), (255, 0, 0), (0, 0, 255)]
    pq.write_table(HUGGING_FACE.slice(1), tmp_path / "hf.parquet")
    with pytest.raises(InputError, match="changed since the run was planned"):
        open_image(images[0])


@pytest.mark.parametrize(
    "name", ["metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.json", "metadata.parquet"]
)
def test_captions_of_an_image_folder_are_the_same_to_analyze_and_train(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame({"file_name": ["a.png", "b.png", None], "text": ["one", None, "three"]})
    for file in ("a.png", "b.png"):
        (tmp_path / file).write_bytes(encoded("red"))
    if name.endswith(("csv", "tsv")):
        frame.to_csv(tmp_path / name, index=False, sep="\t" if name.endswith("tsv") else ",")
    elif name.endswith("parquet"):
        frame.to_parquet(tmp_path / name)
    else:
        frame.to_json(tmp_path / name, orient="records", lines=name.endswith("l"))
    notes = Notes()
    images = find_images(tmp_path / name, notes=notes)
    assert [(image.path.name, image.caption) for image in images] == [("a.png", "one"), ("b.png", None)]
    assert notes.lines() == [f"rows without an image, left out: 1 ({name} 1)"]
    assert [Path(pair.source).name for pair in find_pairs(str(tmp_path), Columns())] == ["a.png"]


def tar_of(path: Path, members: dict[str, bytes]) -> bytes:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path.read_bytes()


def test_a_cut_tar_is_refused_or_said(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    picture = encoded("red")
    members = {f"{i}.{ending}": data for i in range(9) for ending, data in (("png", picture), ("txt", b"a cat"))}
    whole, step = tar_of(path, members), 2 * 512
    assert len(picture) <= 512
    assert len(find_pairs(str(path), Columns())) == 9
    for length, message in {
        2 * 2 * step + 100: "cut inside the header behind member 1.txt",
        2 * 2 * step + 512 + 100: "cut or damaged at or behind member 2.png",
    }.items():
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=message):
            find_pairs(str(path), Columns())
    path.write_bytes(whole[: 2 * 2 * step + step])  # behind 2.png: its caption is gone
    notes = Notes()
    assert len(find_pairs(str(path), Columns(), notes)) == 2
    assert notes.lines() == [
        "images without a caption, left out: 1 (t.tar 1)",
        "tar files without an end mark, perhaps cut behind a member: 1 (t.tar 1)",
    ]
    path.write_bytes(whole + whole)
    with pytest.raises(InputError, match="data behind the end of the archive"):
        find_pairs(str(path), Columns())
    path.write_bytes(whole[:step] + b"\x07" * 512 + whole[step + 512 :])
    with pytest.raises(InputError, match=r"a damaged header behind member 0\.png"):
        find_pairs(str(path), Columns())


def test_odd_members_of_a_tar(tmp_path: Path) -> None:
    path, picture, notes = tmp_path / "t.tar", encoded("red"), Notes()
    odd = {
        "a.png": picture,
        "a.json": json.dumps({"caption": ["one", "uno"]}).encode(),
        "b.avif": picture,
        "c.cls": b"7",
        "c.v1.png": picture,
    }
    tar_of(path, odd)
    assert [pair.caption for pair in find_pairs(str(path), Columns(), notes)] == ["one", "uno"]
    assert notes.lines() == [
        "images without a caption, left out: 1 (t.tar 1)",
        "files of other kinds, not taken: 1 (.cls 1)",
        "files with several dots in their names (a sample's name ends at the first), not taken: 1 (.v1.png 1)",
        "samples without an image, left out: 1 (t.tar 1)",
    ]
    for content, message in {
        b'["a"]': "found list",
        b"{": "not JSON",
        b'{"caption": "\\ud83d"}': "half of a char",
    }.items():
        tar_of(path, {"0.png": picture, "0.json": content})
        with pytest.raises(InputError, match=message):
            find_pairs(str(path), Columns())
