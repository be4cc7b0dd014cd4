"""The figure and its patches: sampled by a pure hash, drawn with any word, the same bytes each time."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from lenscore.readings.image_reading import ImageReading, LensReading, Word
from lenscore.single_image import fonts
from lenscore.single_image import text_layout as runs
from lenscore.single_image.analyzed_image import AnalyzedImage
from lenscore.single_image.cells import lens_lines, sentence_line
from lenscore.single_image.figure import drawn_layers
from lenscore.single_image.fonts import FALLBACKS, drawable
from storage_layouts.errors import InputError
from storage_layouts.printable import printable, printable_word


@pytest.fixture
def analyzed(hostile_reading: ImageReading) -> AnalyzedImage:
    return AnalyzedImage(hostile_reading, "org/<model>", "ab12")


def padded(reading: ImageReading) -> ImageReading:
    """The same image, letterboxed: the first two rows show nothing but padding, the third half of it."""
    boxes = reading.boxes.copy()
    rows = reading.places[:, 1]
    boxes[:, 1] = np.clip((rows - 2.5) / 3.5, 0, 1)
    boxes[:, 3] = np.clip((rows - 1.5) / 3.5, 0, 1)
    return replace(reading, boxes=boxes)


def test_sampled_patches_are_spread_and_never_on_padding(hostile_reading: ImageReading) -> None:
    middles = (hostile_reading.boxes[:, :2] + hostile_reading.boxes[:, 2:]) / 2 * [720, 480]
    seen = set()
    for seed in range(60):
        analyzed = AnalyzedImage(hostile_reading, "m", "ab12")
        sampled = analyzed.sampled(4, seed)
        assert sampled == AnalyzedImage(hostile_reading, "other", "ab12").sampled("4", seed)
        assert list(sampled) == sorted(set(sampled))
        apart = min(np.linalg.norm(middles[a] - middles[b]) for a in sampled for b in sampled if a < b)
        assert apart >= 0.5 * np.sqrt(720 * 480 / 4)
        seen.add(sampled)
        on_padding = AnalyzedImage(padded(hostile_reading), "m", "ab12").sampled(9, seed)
        assert {hostile_reading.places[one, 1] for one in on_padding} <= {3, 4, 5}
    assert len(seen) > 50
    assert set().union(*seen) == set(range(36))
    assert (
        AnalyzedImage(hostile_reading, "m", "cd34").sampled() != AnalyzedImage(hostile_reading, "m", "ab12").sampled()
    )
    assert len(AnalyzedImage(hostile_reading, "m", "ab12").sampled(99)) == 36


def test_patches_are_named_by_place(analyzed: AnalyzedImage) -> None:
    assert analyzed.sampled("3,5; 0,0,4 ;3,5") == (23, 4)
    assert analyzed.sampled([(3, 5), np.array([0, 0, 4])]) == (23, 4)
    several = replace(analyzed.reading, views={0: "tile 1", 1: "tile 2"})
    for asked, message in (
        ("0", "at least 1"),
        ("-2", "at least 1"),
        ("3,x", "is not a place"),
        ("1,2,3,4", "is not a place"),
        ("6,0", "rows 0 to 5 and columns 0 to 5"),
        ([], "is not a place"),
        ([(1, -1)], "is not a place"),
        ("4,1,1", "view 4 of this image has no patches"),
    ):
        with pytest.raises(InputError, match=message):
            analyzed.sampled(asked)
    with pytest.raises(InputError, match=r"name a view, as in 0,1,2; this image has 0 \(tile 1\), 1 \(tile 2\)"):
        replace(analyzed, reading=several).sampled("1,2")


def test_layers_of_the_figure() -> None:
    assert drawn_layers([0, 1, 2]) == (0, 1, 2)
    assert drawn_layers([0, 1, 2, 4, 8, 16, 24, 30, 31]) == (0, 8, 31)
    assert drawn_layers([0, 1, 2, 4, 5], [5, 1, 1]) == (1, 5)
    with pytest.raises(InputError, match=r"layers: 3 was not analysed; expected some of 0, 1"):
        drawn_layers([0, 1], [3])


def test_the_same_bytes_and_the_asked_width(analyzed: AnalyzedImage, tmp_path: Path) -> None:
    widths = {"page": 2040, "column": 990}
    for width, pixels in widths.items():
        first, again = (analyzed.save_png(tmp_path / name, width=width, patches=3) for name in ("a.png", "b.png"))
        assert first.read_bytes() == again.read_bytes()
        with Image.open(first) as figure:
            assert figure.width == pixels
            assert figure.info.keys() <= {"dpi"}
            colours = {colour for _, colour in figure.convert("RGB").getcolors(1 << 24)}
            assert {(0, 114, 178), (213, 94, 0), (0, 158, 115)} <= colours  # the three lenses
    with mpl.rc_context({"savefig.bbox": "tight", "font.size": 20, "text.usetex": True, "text.hinting": "native"}):
        elsewhere = analyzed.save_png(tmp_path / "c.png", width="column", patches=3)
    assert elsewhere.read_bytes() == again.read_bytes()
    for ending in ("pdf", "svg"):
        asked = {"patches": 1, "layers": [0]}
        first, again = (analyzed.save_figure(tmp_path / f"{name}.{ending}", **asked) for name in ("a", "b"))
        assert first.read_bytes() == again.read_bytes()
        assert b"202" not in first.read_bytes().partition(b"Date")[2][:40]
    with pytest.raises(InputError, match=r"a \.pdf, \.svg or \.png file; found \.jpg"):
        analyzed.save_figure(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="width: found 'wide', expected 'page' or 'column'"):
        analyzed.save_png(tmp_path / "a.png", width="wide")
    with pytest.raises(InputError, match=r"36 patches at 3 layers would be \d+ inches high, expected at most 60"):
        analyzed.save_png(tmp_path / "a.png", width="column", patches=99, sentences=5)
    with pytest.raises(InputError, match="a folder; name a file in it"):
        analyzed.save_png(tmp_path)


def test_the_numbered_patches_lie_on_the_image(analyzed: AnalyzedImage, tmp_path: Path) -> None:
    """The outlines differ from the figure of another patch exactly where the two patches are."""
    figures = [
        np.asarray(Image.open(analyzed.save_png(tmp_path / f"{i}.png", patches=place, layers=[0])).convert("RGB"), int)
        for i, place in enumerate(("1,1", "4,3"))
    ]
    left, top, width = 12, 12, 645  # 0.04 and 2.15 inches of 300 pixels
    height = round(width * 480 / 720)
    rows = min(len(figure) for figure in figures)
    changed = (figures[0][:rows] != figures[1][:rows]).any(axis=2)[top : top + height, left : left + width]
    at = np.zeros_like(changed)
    for row, col in ((1, 1), (4, 3)):
        box = [
            round(col * width / 6),
            round((col + 1) * width / 6),
            round(row * height / 6),
            round((row + 1) * height / 6),
        ]
        at[max(box[2] - 26, 0) : box[3] + 6, max(box[0] - 26, 0) : box[1] + 6] = True
        edge = changed[box[2] + 30 : box[3] - 10, box[1] - 4 : box[1] + 4]
        assert edge.any(axis=1).all()
    assert not changed[~at].any()


def test_every_line_fits_and_every_character_can_be_drawn(hostile_reading: ImageReading) -> None:
    drawn = ""
    for lens in hostile_reading.lenses:
        for patch in range(36):
            for width in (0.8, 2.0):
                for line in lens_lines(lens, 1, patch, width, "#000000", 3):
                    assert sum(run.width for run in line) <= width + 1e-6
                    drawn += "".join(run.text for run in line)
    assert all(drawable(character) for character in set(drawn))
    for text in (
        "<script>",
        "$\\frac{$",
        "\\x00nul",
        "\\u202eevil\\u202c",
        "␣",
        "(empty)",
        "⏎",
        "😀",
        "مرحبا",
        "naïve",
    ):
        assert text in drawn
    assert "\u202e" not in drawn
    assert "\x00" not in drawn
    assert ("犬" if drawable("犬") else "\\u72ac") in drawn


def test_sentences_are_cut_around_the_token_at_words() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"
    start = text.index("seven")
    before, mark, after = (
        run.text for run in sentence_line(Word("seven", "seven", text, start, start + 5), 1.6, "red")
    )
    assert mark == "seven"
    assert before.startswith("…")
    assert after.endswith("…")
    assert text[:start].endswith(before[1:])
    assert text[start + 5 :].startswith(after[:-1])
    assert text[: start - len(before[1:])].endswith(" ")
    assert text[start + 5 + len(after[:-1])] == " "
    whole = sentence_line(Word("seven", "seven", text, start, start + 5), 9, "red")
    assert "".join(run.text for run in whole) == text
    assert [run.weight for run in whole] == ["normal", "bold", "normal"]


def test_one_row_of_several_contextual_layers_is_one_line() -> None:
    words = (Word("dog", "dog", "a dog", 2, 5), Word("cat", "cat", "a cat", 2, 5))
    lens = LensReading(
        "latent",
        words,
        np.array([[[0, 0, 1, 0, -1]]], np.int32),
        np.array([[[0.9, 0.8, 0.7, 0.6, np.nan]]], np.float32),
        np.array([[[8, 2, 2, 4, -1]]], np.int16),
    )
    lines = lens_lines(lens, 0, 0, 3, "red", 3)
    assert ["".join(run.text for run in line) for line in lines] == ["a dog L2 L4 L8", "a cat L2"]


def test_what_cannot_be_seen_is_an_escape() -> None:
    assert printable("a\x00b\u202ec\x1b[31m\ud800") == "a\\x00b\\u202ec\\x1b[31m\\ud800"
    assert (
        printable("naïve 😀 犬\u200d", lambda character: ord(character) < 0x3000) == "naïve \\U0001f600 \\u72ac\u200d"
    )
    assert [printable_word(text) for text in (" ", "", "\n\t", "\x85", "a b")] == ["␣", "(empty)", "⏎⇥", "\\x85", "a b"]
    assert [printable_word(text) for text in ("\u200b", "\ufeff ", "e\u200d")] == ["\\u200b", "\\ufeff␣", "e\u200d"]


def test_no_font_no_picture_no_place_no_noise(hostile_reading: ImageReading, tmp_path: Path) -> None:
    """Nothing on standard error, whatever the words; images that are gone and tokens of no place are drawn too."""
    gone = AnalyzedImage(replace(hostile_reading, picture=None), "m", "ab")
    nowhere = replace(hostile_reading, boxes=np.tile(np.array([0, 0, 1, 1], np.float32), (36, 1)))
    for number, analyzed in enumerate((gone, AnalyzedImage(nowhere, "m", "ab"))):
        with Image.open(analyzed.save_png(tmp_path / f"{number}.png", dpi=60)) as figure:
            assert figure.width == 408
    script = (
        "import pathlib, pickle, sys\n"
        "analyzed = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "analyzed.save_png(sys.argv[2]); analyzed.show(); print(analyzed)\n"
        "assert 'transformers' not in sys.modules"
    )
    (tmp_path / "analyzed").write_bytes(pickle.dumps(AnalyzedImage(hostile_reading, "m", "ab")))
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "analyzed"), str(tmp_path / "c.png")]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    shown = done.stdout.decode()
    assert "<script>alert(1)</script>" in shown
    assert "\u202e" not in shown
    assert "\x00" not in shown


def test_other_fonts_draw_what_the_first_one_lacks(
    hostile_reading: ImageReading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A word that only a second font has, and a third font without a bold face (all come with matplotlib)."""
    word = "\u24b6\u24b7"
    lens = replace(hostile_reading.lenses[0], words=(Word(word, word, f"a {word} b", 2, 4),) * 99)
    analyzed = AnalyzedImage(replace(hostile_reading, lenses=(lens,)), "m", "ab")

    def drawn_with(*names: str) -> tuple[str, bytes]:
        monkeypatch.setattr(fonts, "FALLBACKS", names)
        for known in (fonts.families, fonts._characters, runs._font, runs._width):
            known.cache_clear()
        text = "".join(run.text for run in lens_lines(lens, 0, 0, 2, "red", 1)[0])
        return text, analyzed.save_png(tmp_path / "a.png", patches=1, layers=[0]).read_bytes()

    escaped, first = drawn_with("DejaVu Sans")
    drawn, second = drawn_with("DejaVu Sans", "STIXGeneral", "DejaVu Sans Display")
    drawn_with(*FALLBACKS)
    assert escaped.startswith("a \\u24b6\\u24b7 b")
    assert drawn.startswith(f"a {word} b")
    assert first != second
    assert caplog.records == []


def test_a_narrow_and_a_wide_image(hostile_reading: ImageReading, tmp_path: Path) -> None:
    for width, height in ((20, 2000), (2000, 20), (1, 1)):
        buffer = io.BytesIO()
        Image.new("RGB", (width, height), "red").save(buffer, "PNG")
        picture = replace(hostile_reading.picture, data=buffer.getvalue())
        reading = replace(hostile_reading, width=width, height=height, picture=picture)
        for kind in ("page", "column"):
            path = AnalyzedImage(reading, "m", "ab").save_png(tmp_path / "a.png", width=kind, dpi=60, patches=2)
            with Image.open(path) as figure:
                assert figure.height < 60 * 9
