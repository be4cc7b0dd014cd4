"""Finding and opening images: every kind of source, and every kind of broken file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lenscore.images.image_files import UnreadableImageError, find_images, open_image
from storage_layouts.errors import InputError


def picture(path: Path, colour: tuple[int, ...] = (200, 30, 40), size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(path)
    return path


def test_a_folder_is_searched_in_the_order_of_its_paths(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/z.jpg", "a/b/c.webp", "notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("no image")
        else:
            picture(tmp_path / name)
    found = find_images(tmp_path)
    assert [str(image.path.relative_to(tmp_path)) for image in found] == ["a/b/c.webp", "a/z.jpg", "b.PNG"]
    assert all(len(image.sha256) == 64 and image.bytes > 0 and image.caption is None for image in found)


def test_lists_and_tables_name_paths_beside_themselves(tmp_path: Path) -> None:
    picture(tmp_path / "one.png")
    picture(tmp_path / "two.png", (1, 2, 3))
    (tmp_path / "list.txt").write_text("two.png\n\none.png\n")
    assert [image.path.name for image in find_images(tmp_path / "list.txt")] == ["two.png", "one.png"]
    table = pd.DataFrame({"path": ["one.png", "two.png"], "caption": ["a dog, wet", None], "text": ["x", "y"]})
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        assert [image.caption for image in find_images(tmp_path / name)] == ["a dog, wet", None]
        assert [image.caption for image in find_images(tmp_path / name, caption_column="text")] == ["x", "y"]
    with pytest.raises(InputError, match=r"no column 'words'; it has 'path', 'caption', 'text'"):
        find_images(tmp_path / "t.csv", caption_column="words")
    table.rename(columns={"path": "file"}).to_csv(tmp_path / "f.csv", index=False)
    assert [image.path.name for image in find_images(tmp_path / "f.csv")] == ["one.png", "two.png"]
    with pytest.raises(InputError, match="no column 'file'"):
        find_images(tmp_path / "t.parquet", path_column="file")


def test_nothing_to_analyse_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "gone.txt").write_text("gone.png")
    (tmp_path / "none.txt").write_text("\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.png")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for name, message in {
        "empty": "no image in this folder",
        "nowhere": "no such file or folder",
        "gone.txt": "of 1 file none can be read",
        "none.txt": "names no image",
        "latin.txt": r"latin.txt, line 1: not UTF-8 \(byte 0xe9 at column 4\)",
        "broken.parquet": "not a readable Parquet file",
    }.items():
        with pytest.raises(InputError, match=message):
            find_images(tmp_path / name)


def test_what_the_eye_sees_is_what_is_opened(tmp_path: Path) -> None:
    """EXIF orientation, transparency over white, 16 bits, palettes, the first frame."""
    upright = np.zeros((4, 6, 3), np.uint8)
    upright[0] = 255
    turned = Image.fromarray(np.rot90(upright).copy())
    exif = turned.getexif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    turned.save(tmp_path / "exif.png", exif=exif)
    picture(tmp_path / "alpha.png", (0, 0, 0, 0))
    Image.fromarray(np.full((3, 3), 128 * 257, np.uint16)).save(tmp_path / "deep.png")
    frames = [Image.new("P", (3, 3), i) for i in (0, 1)]
    frames[0].putpalette([9, 8, 7, 1, 2, 3])
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    opened = {image.path.name: open_image(image) for image in find_images(tmp_path)}
    assert all(image.mode == "RGB" for image in opened.values())
    assert np.array_equal(np.asarray(opened["exif.png"]), upright)
    assert opened["alpha.png"].getpixel((0, 0)) == (255, 255, 255)
    assert opened["deep.png"].getpixel((1, 1)) == (128, 128, 128)
    assert opened["film.gif"].getpixel((1, 1)) == (9, 8, 7)


def test_unreadable_images_say_why_and_always_the_same(tmp_path: Path) -> None:
    picture(tmp_path / "whole.png", size=(60, 60))
    data = picture(tmp_path / "cut.jpg", size=(60, 60)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("no picture at all")
    (tmp_path / "nothing.png").write_bytes(b"")
    picture(tmp_path / "strip.png", size=(1, 500))
    images = {image.path.name: image for image in find_images(tmp_path)}
    expected = {
        "cut.jpg": "[Tt]runcated",
        "text.png": "cannot identify",
        "nothing.png": "cannot identify",
        "strip.png": "1 x 500",
    }
    for name, reason in expected.items():
        reasons = set()
        for _ in range(2):
            with pytest.raises(UnreadableImageError, match=reason) as caught:
                open_image(images[name])
            reasons.add(str(caught.value))
        assert len(reasons) == 1
    assert open_image(images["whole.png"]).size == (60, 60)


def test_a_changed_image_is_loud(tmp_path: Path) -> None:
    image, other = (
        find_images(picture(tmp_path / "a.png").parent)[0],
        find_images(picture(tmp_path / "b.png").parent)[1],
    )
    picture(image.path, (0, 0, 0))
    with pytest.raises(InputError, match="changed since the run was planned"):
        open_image(image)
    other.path.unlink()
    with pytest.raises(InputError, match="is unreadable"):
        open_image(other)


def test_odd_colours_are_what_the_eye_sees_or_are_named(tmp_path: Path) -> None:
    """CMYK, grey, one bit, grey with transparency, a single pixel; and two kinds with unknown colours."""
    Image.new("CMYK", (5, 4), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    Image.new("CMYK", (5, 4), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    Image.new("L", (5, 4), 77).save(tmp_path / "grey.png")
    Image.new("1", (5, 4), 1).save(tmp_path / "bit.png")
    Image.new("LA", (5, 4), (0, 0)).save(tmp_path / "fading.png")
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "dot.png")
    Image.new("F", (5, 4), 0.5).save(tmp_path / "float.tif")
    Image.new("LAB", (5, 4), (50, 0, 0)).save(tmp_path / "lab.tif")
    images = {image.path.name: image for image in find_images(tmp_path)}
    for name, colour in {
        "cmyk.tif": (255, 0, 0),
        "grey.png": (77, 77, 77),
        "bit.png": (255, 255, 255),
        "fading.png": (255, 255, 255),
        "dot.png": (9, 8, 7),
    }.items():
        assert open_image(images[name]).getpixel((0, 0)) == colour, name
    assert open_image(images["dot.png"]).size == (1, 1)
    red, green, blue = open_image(images["cmyk.jpg"]).getpixel((2, 2))  # type: ignore[misc]
    assert (red > 240, green < 15, blue < 15) == (True, True, True)
    for name, reason in {"float.tif": "floating-point pixels", "lab.tif": "LAB"}.items():
        with pytest.raises(UnreadableImageError, match=reason):
            open_image(images[name])


def test_a_huge_image_is_refused_by_its_size_before_it_fills_the_memory(tmp_path: Path) -> None:
    """A header that promises 30,000 x 30,000 pixels, and 12 bytes of data."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"\0")
    parts = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (ihdr, idat)]
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    picture(tmp_path / "large.png", size=(4000, 3000))
    huge, large = find_images(tmp_path)
    with pytest.raises(UnreadableImageError, match=r"30000 x 30000 pixels, more than 178,956,970 .*--max-pixels"):
        open_image(huge)
    assert open_image(large).size == (4000, 3000)
