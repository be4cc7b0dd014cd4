"""Pointing game and average precision by cases that were counted by hand, and the truth that they stand on."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lenscore import shapes
from lenscore.judging.patches import ImagePatches
from lenscore.readings.image_reading import ImageReading
from lenscore.readings.word_reading import WordReading
from lenscore.statistics.intervals import clustered_mean
from lenscore.word_maps.found_words import FoundWords
from lenscore.word_maps.localisation import (
    ALL_WORDS,
    Localisation,
    average_precision,
    pointing_game,
    precision_by_chance,
)
from lenscore.word_maps.word_truth import SHAPES, NamedPart, WordTruth
from storage_layouts.errors import InputError

BOXES = np.array([(c / 2, r / 2, (c + 1) / 2, (r + 1) / 2) for r in range(2) for c in range(2)], np.float32)


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def on(*places: int, of: int = 4) -> np.ndarray:
    return np.isin(np.arange(of), places)


def test_the_pointing_game_looks_at_the_best_patch() -> None:
    assert pointing_game(scores(0.1, 0.9, 0.3, 0.2), on(1, 3)) == 1
    assert pointing_game(scores(0.1, 0.9, 0.3, 0.2), on(0, 2, 3)) == 0
    assert pointing_game(scores(0.9, 0.9, 0.9, 0.2), on(0, 3)) == pytest.approx(1 / 3)  # of equal ones the share


@pytest.mark.parametrize(
    ("values", "positive", "expected"),
    [
        ((4, 3, 2, 1), (0, 1), Fraction(1)),
        ((4, 3, 2, 1), (0, 2), (Fraction(1, 1) + Fraction(2, 3)) / 2),
        ((4, 3, 2, 1), (3,), Fraction(1, 4)),
        ((1, 1, 1, 1), (2,), Fraction(1, 4)),  # all equal: the precision of all
        ((3, 2, 2, 1), (1, 3), (Fraction(1, 3) + Fraction(2, 4)) / 2),  # the second and third come together
        ((1, 2, 3, 4), (0, 1, 2, 3), Fraction(1)),
    ],
)
def test_average_precision_by_hand(values: tuple[float, ...], positive: tuple[int, ...], expected: Fraction) -> None:
    assert average_precision(scores(*values), on(*positive)) == pytest.approx(float(expected))


def test_chance_is_the_mean_over_all_orders() -> None:
    for patches in (1, 2, 5, 6):
        for positive in range(1, patches + 1):
            orders = permutations(range(patches))
            mean = np.mean([average_precision(scores(*order), on(*range(positive), of=patches)) for order in orders])
            assert precision_by_chance(positive, patches) == pytest.approx(mean)
    assert precision_by_chance(6, 64) > 6 / 64


def found(*lines: tuple[float, ...], words: tuple[str, ...] = ("boat",), boxes: np.ndarray = BOXES) -> FoundWords:
    """One layer and lens; a line of four scores for each word."""
    places = np.array([(0, r, c) for r in range(2) for c in range(2)], np.int32)
    reading = ImageReading("i", "", 4, 4, None, {0: "global"}, places, boxes, (3,), ())
    values = np.array(lines, np.float32)[:, None]
    lens = WordReading("logit", ("",) * len(words), 9, values, np.ones(values.shape, np.int64))
    return FoundWords(reading, words, (lens,), "m", "i")


def box(left: float, top: float, right: float, bottom: float, *words: str) -> NamedPart:
    def coverage(boxes: np.ndarray) -> np.ndarray:
        wide = np.clip(np.minimum(boxes[:, 2], right) - np.maximum(boxes[:, 0], left), 0, None)
        high = np.clip(np.minimum(boxes[:, 3], bottom) - np.maximum(boxes[:, 1], top), 0, None)
        return wide * high / 0.25

    return NamedPart(frozenset(words), coverage)


def test_only_images_with_the_object_count() -> None:
    truth = WordTruth(
        {
            0: [box(0, 0, 0.5, 0.5, "boat")],  # the first patch
            1: [box(0, 0, 0.5, 0.5, "boat"), box(0.5, 0.5, 1, 1, "boat"), box(0, 0.5, 1, 1, "sea")],
            2: [box(0, 0, 0.2, 0.2, "boat")],  # covers too little
            3: [box(0, 0, 1, 1, "dog")],
        }
    )
    localisation = Localisation(truth)
    for image, values in enumerate([(9, 1, 1, 1), (1, 9, 3, 8), (9, 1, 1, 1), (9, 1, 1, 1), (9, 1, 1, 1)]):
        localisation.add(image, found(values))  # the truth does not know the last image
    (line,) = localisation.table().to_dict("records")
    assert (line["word"], line["lens"], line["layer"], line["images"]) == ("boat", "logit", 3, 2)
    assert line["pointing"] == 0.5
    assert line["precision"] == pytest.approx((1 + (1 / 2 + 2 / 4) / 2) / 2)
    assert line["pointing_chance"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert line["precision_chance"] == pytest.approx((precision_by_chance(1, 4) + precision_by_chance(2, 4)) / 2)
    assert localisation.without_patch == {"boat": 1}
    low, high = clustered_mean(np.array([1.0, 0.0]), np.array([1.0, 1.0]), (0, 1))[1:]
    assert (line["pointing_low"], line["pointing_high"]) == (low, high)


def test_several_words_have_a_mean_over_pairs_with_images_as_clusters() -> None:
    truth = WordTruth({0: [box(0, 0, 0.5, 0.5, "boat")], 1: [box(0, 0, 0.5, 0.5, "boat"), box(0.5, 0, 1, 0.5, "dog")]})
    localisation = Localisation(truth)
    for image in range(2):
        localisation.add(image, found((9, 1, 1, 1), (9, 1, 1, 1), words=("dog", "boat")))
    table = localisation.table().set_index("word")
    assert list(table.index) == ["dog", "boat", ALL_WORDS]  # as they were asked for
    assert table["pointing"].to_dict() == {"boat": 1, "dog": 0, ALL_WORDS: pytest.approx(2 / 3)}
    assert table["images"].to_dict() == {"boat": 2, "dog": 1, ALL_WORDS: 2}
    assert np.isnan(table["pointing_low"]["dog"])  # one image has no interval
    low = clustered_mean(np.array([1.0, 1.0]), np.array([1.0, 2.0]), (0, 1))[1]
    assert table["pointing_low"][ALL_WORDS] == low


def test_padding_and_words_without_a_score_are_left_out() -> None:
    padded = BOXES.copy()
    padded[3] = (1, 1, 1, 1)
    localisation = Localisation(WordTruth({0: [box(0, 0, 0.5, 0.5, "boat"), box(0.5, 0, 1, 0.5, "dog")]}))
    values = (9, 1, 1, 99), (np.nan,) * 4
    localisation.add(0, found(*values, words=("boat", "dog"), boxes=padded))
    (line,) = localisation.table().to_dict("records")
    assert (line["word"], line["pointing"]) == ("boat", 1)
    assert line["pointing_chance"] == pytest.approx(1 / 3)


def test_a_truth_file_knows_words_in_all_forms(tmp_path: Path) -> None:
    rows = [
        {"path": "a.png", "x0": 0, "y0": 0, "x1": 2, "y1": 4, "word": "Boat", "synonyms": "ship"},
        {"path": "a.png", "x0": 2, "y0": 0, "x1": 4, "y1": 1, "word": "boat"},
        {"path": "b.png", "x0": 0, "y0": 0, "x1": 4, "y1": 4, "word": "sea"},
    ]
    (tmp_path / "truth.json").write_text(json.dumps(rows))
    images = [ImagePatches(place, f"/photos/{name}", "", (), 4, 4) for place, name in enumerate(["a.png", "b.png"])]
    truth = WordTruth.of(str(tmp_path / "truth.json"), images)
    # The first one covers all of two patches, the second half of one.
    for word, expected in (("boat", [1, 0.5, 1, 0]), ("Boats", [1, 0.5, 1, 0]), ("SHIP", [1, 0, 1, 0])):
        assert truth.images_with(word) == [0]
        np.testing.assert_allclose(truth.coverage(0, word, BOXES), expected)
    assert not truth.coverage(1, "boat", BOXES).any()
    with pytest.raises(InputError, match=r"names none of the 1 image, such as /photos/c.png; expected paths"):
        WordTruth.of(str(tmp_path / "truth.json"), [ImagePatches(0, "/photos/c.png", "", (), 4, 4)])


def test_scenes_of_the_shapes_world_are_a_truth(tmp_path: Path) -> None:
    paths = shapes.write_images(tmp_path, "test", 4)
    images = [ImagePatches(place, str(path), "", ()) for place, path in enumerate(paths)]
    truth = WordTruth.of(SHAPES, images)
    boxes = np.array([(c / 8, r / 8, (c + 1) / 8, (r + 1) / 8) for r in range(8) for c in range(8)], np.float32)
    for image, path in enumerate(paths):
        scene = shapes.read_scene(path)
        expected = shapes.patch_truths(scene, boxes)
        for item in scene.objects:
            covered = truth.coverage(image, item.noun, boxes) >= 0.5
            of_noun = [one.kind == "object" and item.noun in one.aspects["noun"] for one in expected]
            halves = [one.share >= 0.5 for one in expected]
            assert covered.tolist() == [a and b for a, b in zip(of_noun, halves, strict=True)]
            colour = truth.coverage(image, item.colour.upper(), boxes) >= 0.5
            right = [item.colour in one.aspects["colour"] and one.share >= 0.5 for one in expected]
            assert colour.tolist() == right  # of the background too
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    with pytest.raises(InputError, match="--truth shapes: knows only images of the shapes world"):
        WordTruth.of(SHAPES, [ImagePatches(0, str(tmp_path / "photo.png"), "", ())])


def test_no_image_with_the_object_gives_an_empty_table() -> None:
    localisation = Localisation(WordTruth({}))
    localisation.add(0, found((1, 2, 3, 4)))
    assert isinstance(localisation.table(), pd.DataFrame)
    assert localisation.table().empty
