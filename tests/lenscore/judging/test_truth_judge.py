from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lenscore.judging.judges.shapes_truth import TruthJudge, fitting_words
from lenscore.judging.patches import ImagePatches, PatchRef
from lenscore.shapes import read_scene, write_images
from lenscore.shapes.rendering import object_masks
from lenscore.shapes.vocabulary import BACKGROUND_WORDS, COLOURS, NOUNS, SIZES, TEXTURES
from storage_layouts.errors import InputError

GRID, SIDE = 8, 12


def image_patches(path: Path) -> ImagePatches:
    digest = sha256(path.read_bytes()).hexdigest()
    cells = [divmod(n, GRID) for n in range(GRID * GRID)]
    places = [PatchRef(0, digest, 0, r, c, (c / GRID, r / GRID, (c + 1) / GRID, (r + 1) / GRID)) for r, c in cells]
    return ImagePatches(0, str(path), digest, tuple(places))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("pictures"), "validation", 10)


def test_truth_equals_counting_pixels(pictures: list[Path]) -> None:
    words = {
        "noun": lambda o: NOUNS[o.noun].words,
        "colour": lambda o: frozenset(COLOURS[o.colour].words),
        "texture": lambda o: frozenset(TEXTURES[o.texture]),
        "size": lambda o: frozenset(SIZES[o.size].words),
    }
    for path in pictures:
        image, scene = image_patches(path), read_scene(path)
        tiles = object_masks(scene).reshape(-1, GRID, SIDE, GRID, SIDE).sum(axis=(2, 4))  # pixels [objects, row, col]
        half, none = {}, set()
        for row, col in np.ndindex(GRID, GRID):
            if tiles[:, row, col].max() >= SIDE * SIDE / 2:
                half[row, col] = scene.objects[int(tiles[:, row, col].argmax())]
            if tiles[:, row, col].sum() == 0:
                none.add((row, col))
        for spec in ("truth", "truth:noun", "truth:colour+texture", "truth:size"):
            judge = TruthJudge(spec)
            places = judge.qualifying(image)
            assert {(place.row, place.col) for place in places} == set(half)
            for place in places:
                item = half[place.row, place.col]
                aspects = spec.partition(":")[2].split("+") if ":" in spec else ["noun"]
                assert judge.right_words(image, place) == frozenset().union(*(words[a](item) for a in aspects))
        background = TruthJudge("truth:background")
        places = background.qualifying(image)
        assert {(place.row, place.col) for place in places} == none
        expected = {*BACKGROUND_WORDS, *COLOURS[scene.background].words}
        assert all(background.right_words(image, place) == expected for place in places)


def test_words_match_without_regard_to_case_and_as_a_whole() -> None:
    right = frozenset({"disc", "circle"})
    assert fitting_words(("Disc", "discs", "DISC", "disc o", "circle", "Disc"), right) == ("Disc", "DISC", "circle")
    assert fitting_words((), right) == ()


@pytest.mark.parametrize("spec", ["", "thruth", "truth:", "truth:shape", "truth:noun+noun", "truth:noun+background"])
def test_unknown_specs_name_those_that_exist(spec: str) -> None:
    with pytest.raises(InputError, match=r"there are truth .*noun, colour, texture, size.*truth:background"):
        TruthJudge(spec)


def test_images_of_another_world_changed_or_gone_are_refused(tmp_path: Path) -> None:
    photograph = tmp_path / "photograph.png"
    Image.new("RGB", (96, 96)).save(photograph)
    image = image_patches(photograph)
    with pytest.raises(InputError, match=r"only images of the shapes world.*photograph\.png"):
        TruthJudge("truth").qualifying(image)
    Image.new("RGB", (96, 96), "red").save(photograph)
    gone = ImagePatches(1, str(tmp_path / "gone.png"), "0" * 64, image.places)
    for changed, message in ((ImagePatches(1, image.path, "0" * 64, image.places), "has changed"), (gone, "is gone")):
        with pytest.raises(InputError, match=message):
            TruthJudge("truth").qualifying(changed)
