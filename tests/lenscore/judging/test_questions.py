"""What a judge sees, against pictures whose every pixel is known."""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lenscore.judging.candidates import CandidateWords
from lenscore.judging.patches import Box, ImagePatches, PatchRef, whole_patches
from lenscore.judging.question_pictures import Picture
from lenscore.judging.questions import Question, QuestionSettings, ask
from storage_layouts.errors import InputError
from tests import synthetic_run


def colour_of(x: float, y: float) -> np.ndarray:
    """Blue and green tell where in the image (shares 0..1) a pixel is; there is no red in it."""
    return np.array([0, 40 + 180 * x, 40 + 180 * y])


def picture(path: Path, width: int, height: int) -> Path:
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.zeros((height, width, 3))
    pixels[..., 1], pixels[..., 2] = 40 + 180 * (x + 0.5) / width, 40 + 180 * (y + 0.5) / height
    Image.fromarray(pixels.round().astype(np.uint8)).save(path)
    return path


def analysed(path: Path, boxes: dict[tuple[int, int], Box]) -> ImagePatches:
    digest = sha256(path.read_bytes()).hexdigest()
    return ImagePatches(0, str(path), digest, tuple(PatchRef(0, digest, 0, r, c, box) for (r, c), box in boxes.items()))


def grid(rows: int, cols: int, seen: Box = (0, 0, 1, 1)) -> dict[tuple[int, int], Box]:
    """Boxes of an even grid over the seen part of an image; what lies outside the image is cut off."""
    left, top, right, bottom = seen
    xs, ys = np.linspace(left, right, cols + 1).clip(0, 1), np.linspace(top, bottom, rows + 1).clip(0, 1)
    return {(r, c): (xs[c], ys[r], xs[c + 1], ys[r + 1]) for r in range(rows) for c in range(cols)}


def place_of(image: ImagePatches, row: int, col: int) -> PatchRef:
    return next(place for place in image.places if (place.row, place.col) == (row, col))


def pixels_of(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(float)


def inside_of_box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """left, top, right, bottom of what the red line encloses."""
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 60)
    rows, cols = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    line = max(2, max(pixels.shape) // 128)
    return cols[0] + line, rows[0] + line, cols[-1] + 1 - line, rows[-1] + 1 - line


def test_the_box_is_a_share_of_the_image_whatever_the_grid(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 600, 600)
    for side, row, col in ((24, 11, 7), (48, 30, 9), (8, 4, 2), (16, 5, 10)):
        image = analysed(path, grid(side, side))
        question = ask(image, place_of(image, row, col), ("a",))
        shown = pixels_of(question.images[0].png)
        assert shown.shape == (512, 512, 3)
        left, top, right, bottom = inside_of_box(shown)
        assert (right - left, bottom - top) == pytest.approx((64, 64), abs=1)
        middle = (col + 0.5) / side, (row + 0.5) / side
        assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((512 * middle[0], 512 * middle[1]), abs=1)
        close = pixels_of(question.images[1].png)
        assert close.shape == (256, 256, 3)
        assert close.mean(axis=(0, 1)) == pytest.approx(colour_of(*middle), abs=1)
        corner = middle[0] - 1 / 16, middle[1] - 1 / 16
        assert close[0, 0] == pytest.approx(colour_of(*corner), abs=2)  # no red line lies in the crop


def test_at_the_edge_the_box_is_cut_and_large_patches_are_never_cut(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 600, 600)
    image = analysed(path, grid(24, 24))
    shown = pixels_of(ask(image, place_of(image, 0, 23), ("a",)).images[0].png)
    red = shown[..., 0] > 200
    assert red[:, -1].any()
    assert red[0].any()
    assert not red[60:].any()
    assert not red[:, :440].any()
    few = analysed(path, grid(4, 4))
    left, top, right, bottom = inside_of_box(pixels_of(ask(few, place_of(few, 1, 2), ("a",)).images[0].png))
    assert (left, top, right, bottom) == pytest.approx((256, 128, 384, 256), abs=1)


@pytest.mark.parametrize(
    ("size", "seen", "shape", "middle"),
    [
        ((800, 400), (0, 0, 1, 1), (512, 512), (0.5, 0.5)),  # stretched to a square
        ((800, 400), (0.25, 0, 0.75, 1), (512, 512), (0.5, 0.5)),  # centre crop: the sides were never seen
        ((800, 400), (0, -0.5, 1, 1.5), (256, 512), (0.5, 0.5)),  # padded to a square: no padding is shown
        ((400, 800), (-0.5, 0, 1.5, 1), (512, 256), (0.5, 0.5)),
    ],
)
def test_the_image_is_shown_as_the_model_saw_it(tmp_path: Path, size, seen, shape, middle) -> None:
    image = analysed(picture(tmp_path / "a.png", *size), grid(24, 24, seen))
    image = ImagePatches(
        0, image.path, image.sha256, tuple(p for p in image.places if p.box[0] < p.box[2] and p.box[1] < p.box[3])
    )
    shown = pixels_of(ask(image, place_of(image, 12, 12), ("a",)).images[0].png)
    assert shown.shape[:2] == shape
    left, top, right, bottom = (min(max(edge, 0), 1) for edge in seen)
    for at, share in (((0, 0), (left, top)), ((-1, -1), (right, bottom)), ((0, -1), (right, top))):
        assert shown[at] == pytest.approx(colour_of(*share), abs=2)
    box = inside_of_box(shown)
    assert (box[2] - box[0], box[3] - box[1]) == pytest.approx((64, 64), abs=1)  # 3 x 3 patches of 24, in every case


def test_only_patches_without_padding_are_judged(tmp_path: Path) -> None:
    # 640 x 427 padded to 640 x 640 as LLaVA does: 106 rows of padding above, 107 below; patches of 26.67 pixels.
    edges = [(26.666667 * row - 106) / 427 for row in range(25)]
    pixel = 1 / 427  # what the processor may add by rounding
    whole_rows = [row for row in range(24) if edges[row] >= -pixel and edges[row + 1] <= 1 + pixel]
    boxes = grid(24, 24, (0, edges[0], 1, edges[24]))
    image = analysed(picture(tmp_path / "a.png", 640, 427), {k: b for k, b in boxes.items() if b[1] < b[3]})
    assert len(image.places) == 17 * 24  # of one of these rows only a sliver shows the image
    assert {place.row for place in whole_patches(image)} == set(whole_rows) == set(range(4, 20))
    assert len(whole_patches(image)) == 16 * 24
    nowhere = tuple(PatchRef(0, image.sha256, 2, 0, col, (0.0, 0.0, 1.0, 1.0)) for col in range(50))
    assert whole_patches(ImagePatches(0, image.path, image.sha256, nowhere)) == []
    two_views = image.places + tuple(
        PatchRef(0, image.sha256, 1, row, col, box) for (row, col), box in grid(48, 48).items()
    )
    assert len(whole_patches(ImagePatches(0, image.path, image.sha256, two_views))) == 16 * 24 + 48 * 48


@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    padded=st.booleans(),
    share=st.floats(0.01, 1),
    data=st.data(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_geometry_breaks_the_pictures(tmp_path: Path, size, shape, padded, share, data) -> None:
    across, down = ((max(size) / side - 1) / 2 if padded else 0.0 for side in size)
    boxes = grid(*shape, (-across, -down, 1 + across, 1 + down))
    in_float32 = {key: tuple(map(float, np.float32(box))) for key, box in boxes.items()}
    kept = {key: box for key, box in in_float32.items() if box[0] < box[2] and box[1] < box[3]}
    image = analysed(picture(tmp_path / f"{size[0]}x{size[1]}.png", *size), kept)
    assert whole_patches(image)
    place = data.draw(st.sampled_from(image.places))
    asked = QuestionSettings(box_share=share, image_side=96, crop_side=48)
    shown, close = (pixels_of(one.png) for one in ask(image, place, ("a",), asked).images)
    assert (max(shown.shape[:2]), max(close.shape[:2])) == (96, 48)


def test_equal_questions_are_equal_and_every_difference_counts(tmp_path: Path) -> None:
    image = analysed(picture(tmp_path / "a.png", 300, 300), grid(24, 24))
    place, settings = place_of(image, 3, 3), QuestionSettings()
    question = ask(image, place, ("cat", "dog"), settings)
    assert ask(image, place, ("cat", "dog"), QuestionSettings()) == question
    unpacked = Picture(Image.open(io.BytesIO(question.images[0].png)))  # whatever its PNG is like
    other = Question(question.text, (unpacked, question.images[1]), question.candidates, question.prompt)
    assert other == question
    assert other.sha256 == question.sha256
    own = tmp_path / "own.txt"
    own.write_text('Which of {candidates} fit? {"reasoning": ...}', encoding="utf-8")
    different = [
        ask(image, place, ("dog", "cat"), settings),
        ask(image, place, ("cat, dog",), settings),
        ask(image, place_of(image, 3, 4), ("cat", "dog"), settings),
        *(
            ask(image, place, ("cat", "dog"), QuestionSettings(**changed))
            for changed in (
                {"box_share": 0.2},
                {"crop": 2.0},
                {"image_side": 256},
                {"describe": "phrase"},
                {"prompt": own},
            )
        ),
    ]
    assert len({question.sha256, *(q.sha256 for q in different)}) == 1 + len(different)
    assert different[-1].text == 'Which of ["cat", "dog"] fit? {"reasoning": ...}'
    assert different[-1].prompt == f"own.txt {sha256(own.read_bytes()).hexdigest()[:12]}"
    assert (question.prompt, different[-2].prompt) == ("word-1", "phrase-1")


def test_words_phrases_and_fragments(tmp_path: Path) -> None:
    results = synthetic_run.make_results(tmp_path, images=1, unreadable=False)
    rows = results.store().row_table().to_pandas()
    sentence = dict(results.store().sentences().to_pandas().itertuples(index=False))
    row = int(rows.index[[sentence[i].endswith("arrow, there") for i in rows["sentence_id"]]][0])
    assert CandidateWords(results).of("latent", np.array([row, -1], np.int32)) == ("arrow",)
    phrases = CandidateWords(results, describe="phrase")
    assert phrases.of("latent", np.array([row, -1], np.int32)) == ("😀 a Shiny [arrow], there",)
    assert phrases.of("logit", np.array([0], np.int32)) == ("circle",)
    image = analysed(picture(tmp_path / "a.png", 60, 60), grid(4, 4))
    shown = ask(image, image.places[5], ("\ufffd", 'a "quoted" \\ word', "line\nbreak", "語")).text
    assert '["\ufffd", "a \\"quoted\\" \\\\ word", "line\\nbreak", "語"]' in shown


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"box_share": 0.0}, "--box-share: found 0.0, expected above 0"),
        ({"crop": 0.5}, "--crop: found 0.5, expected 1 to 8"),
        ({"crop": 9.0}, "--crop: found 9.0, expected 1 to 8"),
        ({"image_side": 8}, "--image-side: found 8, expected 32 to 2048"),
        ({"describe": "poem"}, "--describe: found poem, expected word or phrase"),
        ({"prompt": Path("/nowhere/p.txt")}, "--prompt /nowhere/p.txt: cannot be read"),
    ],
)
def test_settings_that_no_question_could_have_are_refused(wrong, message) -> None:
    with pytest.raises(InputError) as refused:
        QuestionSettings(**wrong)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_prompt_without_a_place_for_words_and_a_changed_image_are_refused(tmp_path: Path) -> None:
    prompt = tmp_path / "p.txt"
    prompt.write_text("Is it good?")
    with pytest.raises(InputError, match=r"found no \{candidates\}"):
        QuestionSettings(prompt=prompt)
    prompt.write_bytes(b"\xff{candidates}")
    with pytest.raises(InputError, match="text file in UTF-8"):
        QuestionSettings(prompt=prompt)
    image = analysed(picture(tmp_path / "a.png", 40, 40), grid(4, 4))
    picture(tmp_path / "a.png", 41, 40)
    with pytest.raises(InputError, match="changed since"):
        ask(image, image.places[0], ("a",))
